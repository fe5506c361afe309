"""What publishing costs: cameras on an agent that publishes every result and on one that doesn't,
turn by turn."""  # noqa: D205, D209

from __future__ import annotations

import shutil
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Dict

import numpy as np

from edge_agent.benchmark.loops import Tally
from edge_agent.benchmark.results import Load
from edge_agent.benchmark.served import MODEL, agent
from edge_agent.benchmark.workers import Fleet
from edge_agent.runtime.results.spool.journal import journal_locations

CLIENTS = 8
TURN_S = 4.0


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


def publishing(package: Path, frame: Path, units: int, threads: int, turns: int) -> Publishing:
    """Measure `turns` turns of each, with CLIENTS cameras; the results go into a file."""
    lines, outbox = frame.with_name("results.jsonl"), frame.with_name("outbox")
    settings = (f"results.lines={lines}", f"results.folder={outbox}")
    load, tallies = Load("shared_memory", CLIENTS), {False: Tally(), True: Tally()}
    with ExitStack() as stack:
        # what a busy machine doesn't store in time would wait for an agent that never comes
        stack.callback(_remove_journals, outbox)
        fleets: Dict[bool, Fleet] = {}
        for publishes in tallies:
            served = agent(package, units, threads, *(settings if publishes else ()))
            address = stack.enter_context(served)
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
