"""`edge-agent detect`: judge image files with a running agent."""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Dict, Iterable, Iterator, List, Optional, Sequence

from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Table

from edge_agent import protocol
from edge_agent.client import images
from edge_agent.client.client import Client
from edge_agent.errors import AgentUnavailable, InvalidPicture, InvalidRequest, UserError
from edge_agent.pictures import listing
from edge_agent.pictures.listing import LeftOut, PictureListing, shown
from edge_agent.pictures.outputs import MARK, check_targets, output_names, write_picture
from edge_agent.pictures.reader import DEPTHS, PictureReader
from edge_agent.types import ModelState, Prediction

OVERLAY_SUFFIX = ".png"
MOST_NAMED = 100  # images that aren't judged, in the table


@dataclass(frozen=True)
class DetectedImage:
    """One image and its outcome; without a prediction `error` is a sentence, `left_out` short."""

    path: Path
    latency_ms: float = 0.0
    prediction: Optional[Prediction] = None
    error: str = ""
    left_out: Optional[LeftOut] = None

    @classmethod
    def refused(cls, left_out: LeftOut, error: str = "") -> DetectedImage:
        """Return what isn't judged."""
        return cls(left_out.path, error=error or str(left_out), left_out=left_out)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command line of `detect`."""
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="files or folders")
    parser.add_argument("--model", help="model component (default: the one that is RUNNING)")
    parser.add_argument("--overlay", type=Path, help="picture to write; a folder for many images")
    parser.add_argument(
        "--bits", type=int, choices=DEPTHS,
        help="of the camera, in files of 16 bits a channel (default: by the highest value in them)",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--address", default=protocol.DEFAULT_SOCKET, help="of the agent")
    parser.add_argument("--transport", choices=["shared_memory", "bytes"], default="shared_memory")


def run(arguments: argparse.Namespace) -> int:
    """Judge every image; 1 when some could not be judged."""
    found = images.listed(arguments.images)
    images.check_opencv()
    overlays = _overlays(arguments.images, found.paths, arguments.overlay)
    console = Console(stderr=arguments.json)
    with Client(arguments.address) as client:
        model = arguments.model or _only_running(client)
        reader = PictureReader(found.paths, bits=arguments.bits)
        camera = _Camera(client, model, arguments.transport, reader, overlays)
        judged: List[DetectedImage] = []
        for item in track(
            _all(found, camera),
            "Inspecting",
            len(found.paths),
            console=console,
            disable=len(found.paths) == 1,
        ):
            judged.append(item)
            if arguments.json:
                sys.stdout.write(json.dumps(_record(item)) + "\n")
    if not arguments.json:
        _print(console, judged, arguments.images)
    _print_left_out(console, found, judged, camera.reader)
    return 1 if any(item.error for item in judged) else 0


def _all(found: PictureListing, camera: _Camera) -> Iterator[DetectedImage]:
    yield from (DetectedImage.refused(item) for item in found.left_out if item.is_picture)
    yield from map(camera.judge, found.paths)


def _overlays(
    sources: Sequence[Path], paths: Sequence[Path], target: Optional[Path]
) -> Dict[Path, Path]:
    """Return where each image's overlay is written. Raises InvalidRequest before one is lost."""
    if target is None:
        return {}
    if len(sources) == 1 and not any(map(listing.is_folder, (sources[0], target))):
        overlays = {paths[0]: target}
    else:
        _check_folder(target, sources, paths)
        names = output_names(sources, paths, OVERLAY_SUFFIX)
        overlays = {path: target / name for path, name in names.items()}
    check_targets(overlays.values(), paths)
    return overlays


def _check_folder(target: Path, sources: Sequence[Path], paths: Sequence[Path]) -> None:
    """Refuse a folder inside one of `sources` that holds images: they'd be judged as well."""
    folder = target.resolve()
    for source in map(Path.resolve, sources):
        if source == folder or source in folder.parents:
            inside = [path for path in paths if folder in path.resolve().parents]
            if inside:
                raise InvalidRequest(
                    f"--overlay {shown(target)} holds images that are to be judged, such as "
                    f"{shown(inside[0])}. Choose a folder outside of them."
                )


def _only_running(client: Client) -> str:
    known = client.models()
    running = [info.name for info in known if info.state is ModelState.RUNNING]
    if len(running) != 1:
        states = ", ".join(f"{info.name} ({info.state.name})" for info in known) or "none"
        raise InvalidRequest(
            f"{len(running)} models are RUNNING; choose one with --model. Deployed: {states}."
        )
    return running[0]


@dataclass(frozen=True)
class _Camera:
    """Image files in place of a camera."""

    client: Client
    model: str
    transport: str
    reader: PictureReader
    overlays: Dict[Path, Path]

    def judge(self, path: Path) -> DetectedImage:
        """Judge a file; a bad image is reported, an agent that doesn't answer ends the run."""
        try:
            image = self.reader.frame(path).pixels
            began = time.perf_counter()
            prediction = self.client.detect(self.model, image, self.transport)
            latency_ms = 1000 * (time.perf_counter() - began)
            if path in self.overlays:
                from edge_agent.runtime.vision import overlay

                write_picture(self.overlays[path], overlay.draw(image, prediction), MARK)
        except AgentUnavailable:
            raise
        except InvalidPicture as error:
            return DetectedImage.refused(LeftOut(path, error.reason), str(error))
        except UserError as error:
            return DetectedImage.refused(LeftOut(path, str(error).rstrip(".")), str(error))
        return DetectedImage(path, latency_ms, prediction)


def _record(item: DetectedImage) -> Dict[str, object]:
    if item.prediction is None:
        return {"image": str(item.path), "error": item.error}
    prediction = item.prediction
    return {
        "image": str(item.path),
        "is_anomalous": prediction.is_anomalous,
        "is_unsure": prediction.is_unsure,
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


def _print(console: Console, judged: Sequence[DetectedImage], sources: Sequence[Path]) -> None:
    table = Table()
    for title in ("image", "verdict", "score", "confidence", "regions", "ms"):
        table.add_column(title, justify="left" if title in ("image", "verdict") else "right")
    refused = 0
    for item in judged:
        name = escape(shown(_short(item.path, sources)))
        prediction = item.prediction
        if prediction is None:
            refused += 1
            if refused <= MOST_NAMED:
                table.add_row(name, f"[yellow]{escape(item.error)}")
            continue
        table.add_row(
            name,
            _verdict(prediction),
            f"{prediction.score:.3f}",
            f"{prediction.confidence:.3f}",
            str(len(prediction.regions)),
            f"{item.latency_ms:.1f}",
        )
    console.print(table)
    if refused > MOST_NAMED:
        console.print(f"{refused - MOST_NAMED} more aren't judged; --json names all of them.")
    done = [item for item in judged if item.prediction is not None]
    anomalous = sum(item.prediction.is_anomalous for item in done if item.prediction)
    unsure = sum(item.prediction.is_unsure for item in done if item.prediction)
    times = sorted(item.latency_ms for item in done) or [0.0]
    console.print(
        f"{len(done)} judged: {anomalous} anomalous, {len(done) - anomalous} normal"
        f"{f', {unsure} of them unsure' if unsure else ''}; "
        f"{len(judged) - len(done)} not judged; median {times[len(times) // 2]:.1f} ms."
    )


def _print_left_out(
    console: Console, found: PictureListing, judged: Iterable[DetectedImage], reader: PictureReader
) -> None:
    refused = [item.left_out for item in judged if item.left_out]
    others = [item for item in found.left_out if not item.is_picture]
    for line in (*reader.remarks, *listing.table([*refused, *others])):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _short(path: Path, sources: Sequence[Path]) -> Path:
    """Return the path inside its folder, the name alone for a file that was named itself."""
    inside = next((source for source in sources if source in path.parents), path.parent)
    return path.relative_to(inside)


def _verdict(prediction: Prediction) -> str:
    word = "[bold red]anomaly[/]" if prediction.is_anomalous else "[green]normal[/]"
    word += ", [yellow]unsure[/]" * prediction.is_unsure
    problems = ", ".join(problem.value for problem in prediction.camera_problems)
    return f"{word} [yellow]({problems} picture)" if problems else word
