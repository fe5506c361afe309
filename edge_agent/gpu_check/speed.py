"""How fast: the loop beside the engine alone, beside the worker process and beside onnxruntime."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from typing import List, Optional, Sequence, Tuple

from edge_agent.errors import BackendUnavailable, InvalidPackage
from edge_agent.gpu_check import looping
from edge_agent.gpu_check.pure import PureLoop
from edge_agent.gpu_check.report import Failed, Report, Rows, Skipped
from edge_agent.gpu_check.site import CUDA_PROVIDER, Site
from edge_agent.runtime.backends.base import Backend

TURNS = 2  # of what is compared, one after the other; the best counts
FEWEST_COPIES = 0.01  # of all the time: fewer can't be told from noise


@dataclass(frozen=True)
class Speed:
    """Frames a second with batches of one size; `graphs` is the loop with CUDA graphs."""

    batch: int
    pure: float
    loop: float
    plain: float
    worker: float
    latency_ms: float
    cuda: Optional[float]

    @property
    def share(self) -> float:
        """The loop's throughput as a share of the pure loop's."""
        return self.loop / self.pure

    def row(self) -> Tuple[str, ...]:
        """Return the cells of the table."""
        fps = [self.pure, self.loop, self.plain, self.worker]
        cuda = "-" if self.cuda is None else f"{self.cuda:.0f}"
        return (
            str(self.batch), *(f"{one:.0f}" for one in fps), cuda,
            f"{self.share:.3f}", f"{self.latency_ms:.3f}",
        )  # fmt: skip


def check(site: Site, report: Report) -> Optional[Speed]:
    """Measure every batch size; returns the one at which the loop is fastest."""
    rows = report.table(
        "Frames a second", "batch", "engine alone", "loop", "loop without graphs", "worker process",
        CUDA_PROVIDER, "loop/alone", "ms a batch",
    )  # fmt: skip
    speeds: List[Speed] = []
    for batch in site.scope.batches:
        report.check(f"speed with batches of {batch}", partial(_speed, site, batch, speeds, rows))
    if not speeds:
        return None
    best = max(speeds, key=lambda speed: speed.loop)
    report.check("loop beside the engine alone", partial(_share, site, best))
    report.check("copies beside computing", partial(_overlap, site, best.batch))
    return best


def _speed(site: Site, batch: int, speeds: List[Speed], rows: Rows) -> str:
    seconds = site.scope.seconds
    with looping.opened(site) as loop:
        single = loop.one_by_one(batch, seconds / TURNS)
        with closing(PureLoop(site, loop.tensors, batch)) as pure:
            pairs = [
                (loop.ring(batch, seconds / TURNS).fps, batch * pure.batches_per_s(seconds / TURNS))
                for _ in range(TURNS)
            ]
        loop_fps, pure_fps = map(max, zip(*pairs))
        remarks = " ".join(loop.remarks)
    with looping.opened(site, with_graphs=False) as loop:
        plain = loop.ring(batch, seconds)
    speed = Speed(
        batch, pure_fps, loop_fps, plain.fps, _worker_fps(site, batch), single.p50_ms,
        _cuda_fps(site, batch),
    )  # fmt: skip
    speeds.append(speed)
    rows.append(speed.row())
    return f"{speed.loop:.0f} frames/s, engine alone {pure_fps:.0f}. {remarks}".rstrip()


def _share(site: Site, best: Speed) -> str:
    goal = site.scope.goals["loop"]
    found = (
        f"{best.share:.3f} of the engine alone, with batches of {best.batch} in {site.precision}"
    )
    if best.share < goal:
        raise Failed(f"{found}; at least {goal:g} is wanted")
    return found


def _overlap(site: Site, batch: int) -> str:
    """Compare the times of all parts by the GPU's events with the time they took together."""
    if site.driver.gpu().is_integrated:
        raise Skipped("the GPU shares the CPU's memory, so that nothing is copied")
    with looping.opened(site, with_graphs=False) as loop:
        run = loop.ring(batch, site.scope.seconds)
    copies = sum(begin + end for begin, _, end in run.parts_ms)
    parts = copies + sum(compute for _, compute, _ in run.parts_ms)
    if copies < FEWEST_COPIES * parts:
        raise Skipped(f"copies are only {copies / max(parts, 1e-9):.2%} of the time")
    overlap = parts / (1000 * run.seconds)
    found = (
        f"copies and computing one after the other would take {overlap:.2f} times as long "
        f"(copies: {copies / parts:.1%} of all)"
    )
    if overlap < site.scope.goals["overlap"]:
        raise Failed(f"{found}; at least {site.scope.goals['overlap']:g} is wanted")
    return found


def _worker_fps(site: Site, batch: int) -> float:
    with ExitStack() as stack:
        units: List[Backend] = [stack.enter_context(closing(site.backend()))]
        for _ in range(units[0].ring - 1):
            other = units[0].another()
            if other is not None:
                units.append(stack.enter_context(closing(other)))
        return _fps(units, batch, site.scope.seconds)


def _cuda_fps(site: Site, batch: int) -> Optional[float]:
    """Return what onnxruntime's CUDA provider does; None where there is none."""
    try:
        backend = site.cuda_provider()
    except (BackendUnavailable, InvalidPackage):
        return None
    with closing(backend):
        return _fps([backend], min(batch, backend.max_batch), site.scope.seconds)


def _fps(units: Sequence[Backend], batch: int, seconds: float) -> float:
    """Keep every unit busy on a thread of its own."""
    with ThreadPoolExecutor(len(units)) as pool:
        for unit in units:
            unit.run(unit.slots()[:batch])
        began = time.perf_counter()
        counts = list(pool.map(partial(_drive, batch=batch, end=began + seconds), units))
        return sum(counts) / (time.perf_counter() - began)


def _drive(unit: Backend, batch: int, end: float) -> int:
    slots, frames = unit.slots(), 0
    while time.perf_counter() < end:
        unit.run(slots[:batch])
        frames += batch
    return frames
