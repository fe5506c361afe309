"""`edge-agent bench`: what serving adds to the engine's own time, in one interleaved run."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Dict, List

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from edge_agent.benchmark.raw import RawEngine, copy_seconds
from edge_agent.benchmark.served import Camera, agent
from edge_agent.runtime import memory
from edge_agent.runtime.package import Package
from edge_agent.runtime.vision import preprocess

if TYPE_CHECKING:
    from numpy.typing import NDArray

WIDTH, HEIGHT = 1920, 1080
BLOCK = 20  # calls of one kind in a row, as one camera makes them


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the command line of `bench`."""
    parser.add_argument("--package", type=Path, help="model package (default: the demo's model)")
    parser.add_argument("--rounds", type=int, default=300, help="calls of each kind")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="engine threads")
    parser.add_argument("--json", action="store_true", help="one JSON object")


def run(arguments: argparse.Namespace) -> int:
    """Measure and print; every figure is of this run."""
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory(prefix="edge-agent-bench-") as folder:
        package = arguments.package or _demo_package(Path(folder), console)
        times = measure(package, arguments.rounds, arguments.threads, console)
    result = summary(times)
    if arguments.json:
        sys.stdout.write(json.dumps(result) + "\n")
    else:
        _print(result)
    return 0


def measure(package: Path, rounds: int, threads: int, console: Console) -> Dict[str, List[float]]:
    """Return seconds per call of each kind; blocks take turns, so that drift hits all alike."""
    memory.keep_heap()  # the raw engine and the client get the process settings of the agent
    preprocess.use_one_thread()
    image = _frame()
    raw = RawEngine(Package(package), threads)
    with agent(package, threads) as address, Camera(address, image) as camera:
        kinds: Dict[str, Callable[[], Any]] = {
            "raw": lambda: raw.detect(camera.frame, camera.mask),
            "shared_memory": camera.by_shared_memory,
            "bytes": camera.by_bytes,
            "empty_call": camera.empty_call,
        }
        times: Dict[str, List[float]] = {name: [] for name in kinds}
        for block in track(range(rounds // BLOCK + 1), "Measuring", console=console):
            for name, call in kinds.items():
                for _ in range(BLOCK):
                    began = time.perf_counter()
                    call()
                    if block:  # the first block warms caches and mappings
                        times[name].append(time.perf_counter() - began)
    times["copy"] = [copy_seconds(image, rounds)]
    return times


def summary(times: Dict[str, List[float]]) -> Dict[str, Any]:
    """Return medians, 90 % and 99 % points, and what serving adds, in milliseconds."""
    points = {
        name: [round(1000 * float(value), 3) for value in np.percentile(values, (50, 90, 99))]
        for name, values in times.items()
    }
    raw_ms = points["raw"][0]
    return {
        "frame": f"{WIDTH}x{HEIGHT}",
        "rounds": len(times["raw"]),
        "p50_p90_p99_ms": {name: points[name] for name in times if name != "copy"},
        "added_p50_ms": {
            name: round(points[name][0] - raw_ms, 3) for name in ("shared_memory", "bytes")
        },
        "frame_copy_ms": points["copy"][0],
    }


def _frame() -> NDArray[np.uint8]:
    """Return a drawn part as a camera of WIDTH x HEIGHT would see it: uint8 RGB."""
    from edge_agent.demo import parts

    image = parts.draw(seed=1, defect="scratch").image
    rows = np.arange(HEIGHT) * image.shape[0] // HEIGHT
    columns = np.arange(WIDTH) * image.shape[1] // WIDTH
    return np.ascontiguousarray(image[rows][:, columns])


def _demo_package(folder: Path, console: Console) -> Path:
    from edge_agent.demo.run import make_package

    console.print("Training the demo's model; give another one with --package.")
    return make_package(folder)


def _print(result: Dict[str, Any]) -> None:
    table = Table("one frame of " + result["frame"], "p50 ms", "p90", "p99", "added to raw p50")
    for name, (p50, p90, p99) in result["p50_p90_p99_ms"].items():
        added = result["added_p50_ms"].get(name)
        more = "" if added is None else f"{added:+.3f} ms"
        table.add_row(name.replace("_", " "), f"{p50:.3f}", f"{p90:.3f}", f"{p99:.3f}", more)
    Console().print(table)
    Console().print(
        f"{result['rounds']} calls of each kind, blocks of {BLOCK} taking turns. Raw: the same "
        "preprocess, engine and postprocess on the same shared memory in one process. Empty call: "
        "a DescribeModel, which is gRPC's own share. One plain copy of the frame takes "
        f"{result['frame_copy_ms']:.3f} ms; over bytes the frame and its mask are copied several "
        "times by client, kernel and agent."
    )
