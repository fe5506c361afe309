"""`edge-agent detect`: judge image files with a running agent."""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Dict, List, Optional

from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Table

from edge_agent import protocol
from edge_agent.client import images
from edge_agent.client.client import Client
from edge_agent.errors import AgentUnavailable, InvalidRequest, UserError
from edge_agent.runtime.vision import overlay
from edge_agent.types import ModelState, Prediction


@dataclass(frozen=True)
class Judged:
    """One image and what became of it; `problem` says why there is no prediction."""

    path: Path
    latency_ms: float = 0.0
    prediction: Optional[Prediction] = None
    problem: str = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command line of `detect`."""
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="files or folders")
    parser.add_argument("--model", help="model component (default: the one that is RUNNING)")
    parser.add_argument("--overlay", type=Path, help="picture to write; a folder for many images")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--address", default=protocol.DEFAULT_SOCKET, help="of the agent")
    parser.add_argument("--transport", choices=["shared_memory", "bytes"], default="shared_memory")


def run(arguments: argparse.Namespace) -> int:
    """Judge every image; 1 when some could not be judged."""
    paths = images.find(arguments.images)
    console = Console(stderr=arguments.json)
    with Client(arguments.address) as client:
        model = arguments.model or _only_running(client)
        judged: List[Judged] = []
        for path in track(paths, "Inspecting", console=console, disable=len(paths) == 1):
            judged.append(_judge(client, model, path, arguments))
            if arguments.json:
                sys.stdout.write(json.dumps(_record(judged[-1])) + "\n")
    if not arguments.json:
        _print(console, judged)
    return 1 if any(item.problem for item in judged) else 0


def _only_running(client: Client) -> str:
    known = client.models()
    running = [info.name for info in known if info.state is ModelState.RUNNING]
    if len(running) != 1:
        states = ", ".join(f"{info.name} ({info.state.name})" for info in known) or "none"
        raise InvalidRequest(
            f"{len(running)} models are RUNNING; choose one with --model. Deployed: {states}."
        )
    return running[0]


def _judge(client: Client, model: str, path: Path, arguments: argparse.Namespace) -> Judged:
    """Judge one file; a bad image is reported, an agent that is gone ends the run."""
    try:
        image = images.load(path)
        began = time.perf_counter()
        prediction = client.detect(model, image, arguments.transport)
        latency_ms = 1000 * (time.perf_counter() - began)
        if arguments.overlay:
            many = len(arguments.images) > 1 or arguments.images[0].is_dir()
            target = arguments.overlay / f"{path.stem}.png" if many else arguments.overlay
            images.save(target, overlay.draw(image, prediction))
    except AgentUnavailable:
        raise
    except UserError as error:
        return Judged(path, problem=str(error))
    return Judged(path, latency_ms, prediction)


def _record(item: Judged) -> Dict[str, Any]:
    if item.prediction is None:
        return {"image": str(item.path), "error": item.problem}
    prediction = item.prediction
    return {
        "image": str(item.path),
        "is_anomalous": prediction.is_anomalous,
        "confidence": prediction.confidence,
        "anomaly_score": prediction.score,
        "anomaly_threshold": prediction.threshold,
        "anomalies": [asdict(anomaly) for anomaly in prediction.anomalies],
        "regions": [asdict(region) for region in prediction.regions],
        "camera_problems": [problem.value for problem in prediction.camera_problems],
        "result_id": prediction.result_id,
        "model_version": prediction.model_version,
        "latency_ms": round(item.latency_ms, 3),
    }


def _print(console: Console, judged: List[Judged]) -> None:
    table = Table()
    for title in ("image", "verdict", "score", "confidence", "regions", "ms"):
        table.add_column(title, justify="left" if title in ("image", "verdict") else "right")
    for item in judged:
        if item.prediction is None:
            table.add_row(escape(item.path.name), f"[yellow]{escape(item.problem)}")
            continue
        prediction = item.prediction
        table.add_row(
            escape(item.path.name),
            _verdict(prediction),
            f"{prediction.score:.3f}",
            f"{prediction.confidence:.3f}",
            str(len(prediction.regions)),
            f"{item.latency_ms:.1f}",
        )
    console.print(table)
    done = [item for item in judged if item.prediction is not None]
    anomalous = sum(item.prediction.is_anomalous for item in done if item.prediction)
    times = sorted(item.latency_ms for item in done) or [0.0]
    console.print(
        f"{len(done)} judged: {anomalous} anomalous, {len(done) - anomalous} normal; "
        f"{len(judged) - len(done)} not judged; median {times[len(times) // 2]:.1f} ms."
    )


def _verdict(prediction: Prediction) -> str:
    word = "[bold red]anomaly[/]" if prediction.is_anomalous else "[green]normal[/]"
    problems = ", ".join(problem.value for problem in prediction.camera_problems)
    return f"{word} [yellow]({problems} picture)" if problems else word
