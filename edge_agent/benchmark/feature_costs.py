"""What one feature of the agent costs: one agent with it and one without, turn by turn.

Batching on a quiet line, seen by one camera; publishing every result, under eight.
"""

from __future__ import annotations

import shutil
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, List

import numpy as np

from edge_agent.benchmark.jobs import Fleet
from edge_agent.benchmark.loops import Tally
from edge_agent.benchmark.raw import BLOCK
from edge_agent.benchmark.results import ClientLoad
from edge_agent.benchmark.served import MODEL, Camera, agent
from edge_agent.runtime.packages.package import Package
from edge_agent.runtime.results.spool.journal import journal_locations

CLIENTS = 8
TURN_S = 4.0


@dataclass(frozen=True)
class QuietLine:
    """Median ms of a call, over shared memory, and what batching adds to it."""

    batch_sizes: str
    with_batching_p50_ms: float
    without_p50_ms: float
    added_p50_ms: float


@dataclass(frozen=True)
class Publishing:
    """Throughput with and without; what a frame's own thread spends on its result."""

    without_fps: float
    with_publishing_fps: float
    ratio: float
    publish_p50_us: float
    publish_p99_us: float
    events: int
    bytes_an_event: float  # of the JSON lines


def quiet_line(package: Path, frame: Path, units: int, threads: int, rounds: int) -> QuietLine:
    """Measure `rounds` calls of each kind."""
    image = np.load(frame)
    times_s: Dict[str, List[float]] = {"true": [], "false": []}
    with ExitStack() as stack:
        cameras = {}
        for batches in times_s:
            serving = agent(package, units, threads, f"engine.cpu_batches={batches}")
            camera = Camera(stack.enter_context(serving), MODEL, image)
            cameras[batches] = stack.enter_context(camera)
        for block in range(1 + rounds // BLOCK):
            for batches, camera in cameras.items():
                for _ in range(BLOCK):
                    began_s = time.perf_counter()
                    camera.by_shared_memory()
                    if block:  # the first block warms caches and mappings
                        times_s[batches].append(time.perf_counter() - began_s)
    on_ms, off_ms = (1000 * float(np.median(times)) for times in times_s.values())
    sizes = Package(package).manifest.runtime.batch_sizes
    return QuietLine(", ".join(map(str, sizes)), on_ms, off_ms, on_ms - off_ms)


def publishing(package: Path, frame: Path, units: int, threads: int, turns: int) -> Publishing:
    """Measure `turns` turns of each, with CLIENTS cameras; the results go into a file."""
    lines, outbox = frame.with_name("results.jsonl"), frame.with_name("outbox")
    settings = (f"results.lines={lines}", f"results.folder={outbox}")
    load, tallies = ClientLoad("shared_memory", CLIENTS), {False: Tally(), True: Tally()}
    with ExitStack() as stack:
        # results that weren't stored in time would wait for an agent that never starts
        stack.callback(_remove_journals, outbox)
        fleets: Dict[bool, Fleet] = {}
        for publishes in tallies:
            serving = agent(package, units, threads, *(settings if publishes else ()))
            address = stack.enter_context(serving)
            fleets[publishes] = stack.enter_context(Fleet(address, MODEL, str(frame), CLIENTS))
        for fleet in fleets.values():
            fleet.turn(load, TURN_S / 4)  # warms caches and mappings
        for _ in range(turns):
            for publishes, fleet in fleets.items():
                tallies[publishes].merge(fleet.turn(load, TURN_S))
    without, with_ = (tally.frames_within / (turns * TURN_S) for tally in tallies.values())
    half, most = np.percentile(tallies[True].stages_ms["publish"], (50, 99))
    events = lines.read_bytes().count(b"\n")
    return Publishing(
        without_fps=without,
        with_publishing_fps=with_,
        ratio=with_ / without,
        publish_p50_us=1000 * float(half),
        publish_p99_us=1000 * float(most),
        events=events,
        bytes_an_event=lines.stat().st_size / max(1, events),
    )


def _remove_journals(outbox: Path) -> None:
    for place in journal_locations(outbox):
        shutil.rmtree(place.path, ignore_errors=True)
