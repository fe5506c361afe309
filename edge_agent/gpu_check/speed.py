"""How fast: the loop beside the engine alone, beside the worker process and beside onnxruntime."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from typing import Callable, List, Optional, Sequence, Tuple, TypeVar

import numpy as np

from edge_agent.errors import BackendUnavailable, InvalidPackage
from edge_agent.gpu_check import engine_loop
from edge_agent.gpu_check.enqueue_loop import EnqueueLoop
from edge_agent.gpu_check.report import AcceptanceReport, Failed, Rows, Skipped
from edge_agent.gpu_check.site import CUDA_PROVIDER, Site
from edge_agent.runtime.backends.base import Backend

T = TypeVar("T")
TURNS = 3  # of what is compared, one after the other; the median of their ratios counts
FEWEST_COPIES = 0.01  # of all the time: fewer are lost in noise
BATCH = "batch"


@dataclass(frozen=True)
class Turn:
    """The engine alone in the better `way`, and the loop; frames a second."""

    alone: float
    way: str
    loop: float

    @property
    def share(self) -> float:
        """The loop's throughput as a share of the engine's alone."""
        return self.loop / self.alone


@dataclass(frozen=True)
class Rate:
    """Frames a second, and the median of a batch with one under way."""

    fps: float
    latency_ms: float


@dataclass(frozen=True)
class Speed:
    """Of batches of one size; `turn` is the one with the median share."""

    batch: int
    turn: Turn
    plain_fps: float
    alone_ms: float
    loop_ms: float
    worker: Rate
    cuda: Optional[Rate]

    @property
    def loop(self) -> float:
        """The loop's frames a second."""
        return self.turn.loop

    def rates(self) -> Tuple[str, ...]:
        """Return the cells of the table of throughputs."""
        fps = [self.turn.alone, self.loop, self.plain_fps, self.worker.fps]
        cuda = f"{self.cuda.fps:.0f}" if self.cuda else "-"
        cells = [f"{one:.0f}" for one in fps]
        return (str(self.batch), *cells, cuda, self.turn.way, f"{self.turn.share:.3f}")

    def latencies(self) -> Tuple[str, ...]:
        """Return the cells of the table of latencies."""
        cuda = f"{self.cuda.latency_ms:.3f}" if self.cuda else "-"
        found = [f"{one:.3f}" for one in (self.alone_ms, self.loop_ms, self.worker.latency_ms)]
        return (str(self.batch), *found, cuda)


def check(site: Site, report: AcceptanceReport) -> Optional[Speed]:
    """Measure every batch size; returns the one at which the loop is fastest."""
    engines = ("engine alone", "loop", "worker process", CUDA_PROVIDER)
    rates = report.table(
        "Frames a second", BATCH, *engines[:2], "loop without graphs", *engines[2:],
        "alone: plain or graph", "loop/alone",
    )  # fmt: skip
    latencies = report.table("Milliseconds a batch, one under way", BATCH, *engines)
    speeds: List[Speed] = []

    def measure(batch: int) -> str:
        speed, remarks = _speed(site, batch)
        speeds.append(speed)
        rates.append(speed.rates())
        latencies.append(speed.latencies())
        found = f"{speed.loop:.0f} frames/s, engine alone {speed.turn.alone:.0f}. {remarks}"
        return found.rstrip()

    for batch in site.scope.batches:
        report.check(f"speed with batches of {batch}", partial(measure, batch))
    if not speeds:
        return None
    best = max(speeds, key=lambda speed: speed.loop)
    report.check("loop beside the engine alone", partial(_share, site, best), "loop")
    parts = report.table(
        "Milliseconds a batch by the GPU's events", BATCH, "copying in", "computing", "copying out"
    )
    largest = max(site.scope.batches)
    report.check("copies beside computing", partial(_overlap, site, largest, parts), "overlap")
    return best


def _speed(site: Site, batch: int) -> Tuple[Speed, str]:
    """Measure batches of one size; returns the loop's remarks as well."""
    some_s = site.scope.seconds / TURNS
    with engine_loop.opened(site) as loop:
        loop_ms = loop.one_by_one(batch, some_s).p50_ms
        with closing(EnqueueLoop(site, loop.tensors, batch)) as enqueue:
            turns = [_turn(loop, enqueue, batch, some_s) for _ in range(TURNS)]
            turn = _median(turns, lambda one: one.share)
            alone_ms = min(enqueue.latency_ms(way, some_s) for way in enqueue.ways)
        remarks = " ".join(loop.remarks)
    with engine_loop.opened(site, with_graphs=False) as loop:
        plain = loop.ring(batch, some_s)
    worker, cuda = _worker(site, batch), _cuda(site, batch)
    return Speed(batch, turn, plain.fps, alone_ms, loop_ms, worker, cuda), remarks


def _turn(loop: engine_loop.PinnedLoop, enqueue: EnqueueLoop, batch: int, seconds: float) -> Turn:
    loop_fps = loop.ring(batch, seconds).fps
    alone = {way: batch * enqueue.batches_per_s(way, seconds) for way in enqueue.ways}
    way = max(alone, key=alone.__getitem__)
    return Turn(alone[way], way, loop_fps)


def _median(items: Sequence[T], key: Callable[[T], float]) -> T:
    return sorted(items, key=key)[len(items) // 2]


def _share(site: Site, best: Speed) -> str:
    goal, share = site.scope.goals["loop"], best.turn.share
    found = f"{share:.3f} of the engine alone, with batches of {best.batch} in {site.precision}"
    if share < goal:
        raise Failed(f"{found}; at least {goal:g} is required")
    return found


def _overlap(site: Site, batch: int, rows: Rows) -> str:
    """Compare the ring with one slot, whose copies wait for its computing."""
    if site.driver.gpu().is_integrated:
        raise Skipped("the GPU shares the CPU's memory, so that nothing is copied")
    some_s, ratios = site.scope.seconds / TURNS, []
    with engine_loop.opened(site) as loop:
        for _ in range(TURNS):
            one = loop.one_by_one(batch, some_s)
            ratios.append(loop.ring(batch, some_s).fps / one.fps)
    begin, compute, end = (float(part) for part in np.median(one.parts_ms, axis=0))
    rows.append((str(batch), f"{begin:.3f}", f"{compute:.3f}", f"{end:.3f}"))
    share = (begin + end) / max(begin + compute + end, 1e-9)
    overlap, goal = float(np.median(ratios)), site.scope.goals["overlap"]
    found = (
        f"{engine_loop.RING} batches in flight give {overlap:.3f} of the frames that one gives, "
        f"with batches of {batch} (copies: {share:.1%} of their time)"
    )
    if share < FEWEST_COPIES:
        raise Skipped(f"{found}: too few copies to measure")
    if overlap < goal:
        raise Failed(f"{found}; at least {goal:g} is required")
    return found


def _worker(site: Site, batch: int) -> Rate:
    with ExitStack() as stack:
        units: List[Backend] = [stack.enter_context(closing(site.backend()))]
        for _ in range(units[0].ring - 1):
            other = units[0].another()
            if other is not None:
                units.append(stack.enter_context(closing(other)))
        return _rate(units, batch, site.scope.seconds / TURNS)


def _cuda(site: Site, batch: int) -> Optional[Rate]:
    """Return what onnxruntime's CUDA provider does; None where there is none."""
    try:
        backend = site.cuda_provider()
    except (BackendUnavailable, InvalidPackage):
        return None
    with closing(backend):
        return _rate([backend], min(batch, backend.max_batch), site.scope.seconds / TURNS)


def _rate(units: Sequence[Backend], batch: int, seconds: float) -> Rate:
    """Measure one unit alone, then keep every unit busy on a thread of its own."""
    with ThreadPoolExecutor(len(units)) as pool:
        for unit in units:
            for _ in range(engine_loop.WARM_UP):
                unit.run(unit.slots()[:batch])
        alone_ms = _drive(units[0], batch, time.perf_counter() + seconds)
        began = time.perf_counter()
        end = began + seconds
        found = list(pool.map(partial(_drive, batch=batch, end=end), units))
        fps = batch * sum(map(len, found)) / (time.perf_counter() - began)
    return Rate(fps, float(np.median(alone_ms)))


def _drive(unit: Backend, batch: int, end: float) -> List[float]:
    """Return what each batch took, in ms; one at least."""
    slots = unit.slots()[:batch]
    found: List[float] = []
    while not found or time.perf_counter() < end:
        began = time.perf_counter()
        unit.run(slots)
        found.append(1000 * (time.perf_counter() - began))
    return found
