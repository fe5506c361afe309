"""What a model in trouble looks like from outside: more frames than it can do, and one camera that
floods the others.

Overload: a camera sends at a multiple of what the model can do, for as long as asked, while another
connection asks for the model's state and health all the time. Flood: some polite cameras, each with
one frame in flight, beside one that has hundreds.
"""  # noqa: D205

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Dict, Iterator, List, Tuple

import numpy as np

from edge_agent.benchmark import process_usage
from edge_agent.benchmark.asker import Asker
from edge_agent.benchmark.loops import Tally
from edge_agent.benchmark.results import Load
from edge_agent.benchmark.workers import ANSWER_WITHIN_S, LEAD_S, OPEN_WITHIN_S, Fleet, Worker

POLITE = 7
TURN_S = 4.0
TURNS = 3
OVERLOAD = 3.0  # times what the model can do
REFUSED = "RESOURCE_EXHAUSTED"


@dataclass(frozen=True)
class Overload:
    """Frames a second before, offered, and in the first second after; times in ms."""

    capacity_fps: float
    offered_fps: float
    seconds: float
    outcomes: Dict[str, int]
    refusal_p50_ms: float
    refusal_p99_ms: float
    question_p99_ms: float
    question_max_ms: float
    rss_first_mib: float
    rss_last_mib: float
    recovered: float  # throughput of the first second after / before


@dataclass(frozen=True)
class Flood:
    """p99 of the polite cameras, ms, without and with the one that floods."""

    in_flight: int
    alone_p99_ms: float
    beside_p99_ms: float
    ratio: float
    polite_fps: float


def overload(address: str, model: str, frame: str, seconds: float) -> Overload:
    """Offer OVERLOAD times the capacity for `seconds`."""
    pid = process_usage.listening_pid(address)
    with Fleet(address, model, frame, POLITE + 1) as fleet, _flood(address, model, frame) as camera:
        load = Load("shared_memory", POLITE + 1)
        before = fleet.turn(load, TURN_S)
        period_s = 1.0 / (OVERLOAD * before.throughput_fps)
        with Asker(address, model, pid) as asker:
            times_ms = _flood_turn(camera, seconds, period_s=period_s)
        after = fleet.turn(load, 1.0)
    refused_ms = times_ms.get(REFUSED, [0.0])
    half, most = np.percentile(refused_ms, (50, 99))
    return Overload(
        capacity_fps=before.throughput_fps,
        offered_fps=1.0 / period_s,
        seconds=seconds,
        outcomes={status: len(times) for status, times in times_ms.items()},
        refusal_p50_ms=float(half),
        refusal_p99_ms=float(most),
        question_p99_ms=float(np.percentile(asker.times_ms, 99)),
        question_max_ms=max(asker.times_ms),
        rss_first_mib=asker.rss_mib[min(len(asker.rss_mib) - 1, 2)],
        rss_last_mib=asker.rss_mib[-1],
        recovered=after.throughput_fps / before.throughput_fps,
    )


def flood(address: str, model: str, frame: str, in_flight: int) -> Flood:
    """Measure POLITE cameras without and with one that has `in_flight` frames in flight."""
    load = Load("shared_memory", POLITE)
    alone, beside = Tally(), Tally()
    with Fleet(address, model, frame, POLITE) as fleet, _flood(address, model, frame) as camera:
        for _ in range(TURNS):
            alone.merge(fleet.turn(load, TURN_S))
            begin_s = time.monotonic() + LEAD_S
            camera.ask(begin_s=begin_s, end_s=begin_s + TURN_S + 1.0, in_flight=in_flight)
            time.sleep(0.5)  # until the flood is there
            beside.merge(fleet.turn(load, TURN_S))
            camera.hear(TURN_S + ANSWER_WITHIN_S)
    alone_ms, beside_ms = (float(np.percentile(t.latencies_ms, 99)) for t in (alone, beside))
    return Flood(
        in_flight=in_flight,
        alone_p99_ms=alone_ms,
        beside_p99_ms=beside_ms,
        ratio=beside_ms / alone_ms,
        polite_fps=beside.frames_within / (TURNS * TURN_S),
    )


@contextmanager
def _flood(address: str, model: str, frame: str) -> Iterator[Worker]:
    with Worker("flood", address=address, model=model, frame=frame) as worker:
        worker.hear(OPEN_WITHIN_S)
        yield worker


def _flood_turn(camera: Worker, seconds: float, **how: Any) -> Dict[str, List[float]]:
    begin_s = time.monotonic() + LEAD_S
    camera.ask(begin_s=begin_s, end_s=begin_s + seconds, **how)
    times_ms: Dict[str, List[float]] = camera.hear(seconds + ANSWER_WITHIN_S)["times_ms"]
    return times_ms


def rows(result: Any) -> List[Tuple[str, str]]:
    """Return name and value of each figure, for people."""
    return [
        (name.replace("_", " "), f"{value:.2f}" if isinstance(value, float) else str(value))
        for name, value in vars(result).items()
    ]
