"""`python -m scripts.peers`: the agent and other servers under one load, as a table or JSON."""

from __future__ import annotations

import argparse
import dataclasses
import json
import signal
import sys
from pathlib import Path
from typing import Callable, List

from rich.console import Console
from rich.table import Table

from edge_agent.errors import EdgeAgentError
from edge_agent.runtime.packages.package import Package
from scripts.peers.measurement import PeerResult, Work, measure_all
from scripts.peers.servers import PEERS

WIDTH, HEIGHT = 1920, 1080
LEAST_WIDTH = 120  # columns, in which no row of the table wraps
NOTE = (
    "Clients are processes of their own on the same cores, each in a closed loop. Every server "
    "does the same work with the whole frame: our preprocess, onnxruntime with the same number of "
    "threads in all, our postprocess, score and mask of the frame's size. The agent listens on a "
    "Unix socket, the others on TCP. CPU and memory are those of the server's process tree. "
    "Configurations: scripts/peers/."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command line."""
    parser.add_argument("--package", type=Path, required=True, help="model package with a mask")
    parser.add_argument("--seconds", type=_positive(float), default=10.0, help="of load, each")
    parser.add_argument("--clients", type=_positive(int), default=8, help="processes that call")
    parser.add_argument(
        "--peer",
        action="append",
        choices=sorted(PEERS),
        help="measure this one beside the agent; repeatable (default: all)",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object")


def run(arguments: argparse.Namespace) -> int:
    """Measure and print; 1 when a server could not be measured."""
    console = Console(stderr=True)
    refusal = _refusal(arguments.package)
    if refusal:
        console.print(refusal, style="red", markup=False)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # leaves no server behind
    work = Work(arguments.package.resolve(), (WIDTH, HEIGHT), arguments.seconds, arguments.clients)
    results = measure_all(
        work,
        arguments.peer or list(PEERS),
        lambda name: console.print(f"Measuring {name} …", highlight=False),
    )
    if arguments.json:
        sys.stdout.write(json.dumps(_document(work, results)) + "\n")
    else:
        _print(work, results)
    return int(any(result.error for result in results))


def _refusal(package: Path) -> str:
    """Return why `package` cannot be measured; "": it can."""
    try:
        task = Package(package).manifest.task
    except EdgeAgentError as error:
        return str(error)
    return "The package gives no mask; take one of another task." * (task == "classification")


def _document(work: Work, results: List[PeerResult]) -> dict[str, object]:
    return {
        "frame": f"{WIDTH}x{HEIGHT}",
        "clients": work.clients,
        "seconds": work.seconds,
        "cores": work.cores,
        "results": [dataclasses.asdict(result) for result in results],
    }


def _print(work: Work, results: List[PeerResult]) -> None:
    table = Table(
        "server", "transport", "frames/s", "p50 ms", "p99 ms", "failed", "CPU ms/frame", "MiB",
        "score", title=f"{work.clients} clients, {WIDTH}x{HEIGHT}, {work.cores} cores",
    )  # fmt: skip
    for one in results:
        table.add_row(f"{one.name} {one.version}", one.transport, *_figures(one))
    console = Console(width=max(Console().width, LEAST_WIDTH))
    console.print(table)
    for one in results:
        if one.error:
            console.print(f"{one.name}, {one.transport}: {one.error}", markup=False)
    console.print(NOTE, highlight=False)


def _figures(result: PeerResult) -> List[str]:
    if result.error:
        return ["not measured"]
    values = (result.frames_per_s, result.p50_ms, result.p99_ms)
    rest = (result.cpu_ms_per_frame, result.memory_mib)
    return [
        *(f"{value:.1f}" for value in values),
        str(result.failures),
        *(f"{value:.1f}" for value in rest),
        f"{result.score:.4f}",
    ]


def _positive(kind: Callable[[str], float]) -> Callable[[str], float]:
    def positive(text: str) -> float:
        value = kind(text)
        if not value > 0:
            raise argparse.ArgumentTypeError(f"{text} isn't positive")
        return value

    positive.__name__ = "positive number"  # argparse names it in its error
    return positive


if __name__ == "__main__":  # clients are spawned processes, which import this module again
    parser = argparse.ArgumentParser(prog="scripts/bench --peers", description=__doc__)
    add_arguments(parser)
    sys.exit(run(parser.parse_args()))
