"""How much memory an engine takes, and whether all is given back, after 1,000 starts as well."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Callable, List, Sequence

from edge_agent.gpu_check import engine_loop
from edge_agent.gpu_check.faults import WORKER, child
from edge_agent.gpu_check.report import AcceptanceReport, Failed, Rows, Skipped
from edge_agent.gpu_check.site import MIB, Site
from edge_agent.runtime.system.resources import resident_bytes

WARM_UP = 10  # rounds after which libraries hold all that they ever do
WORKER_ROUNDS = 20
WORKER_WARM_UP = 1
ALLOWED = 32 * MIB  # drivers give memory back in blocks of 2 MiB and more
STEADY = 4 * MIB  # what the second half of the rounds may take, if it isn't less than the first
SAMPLES, PAUSE_S = 5, 0.01
LEFT_ALLOWED = 256 * MIB  # what TensorRT's and CUDA's libraries keep in this process
SHARED = 8  # times as much, where the GPU's memory is the machine's: others use it meanwhile


@dataclass(frozen=True)
class ResourceUsage:
    """What this process holds: bytes of the GPU and of the machine, open files, threads."""

    gpu: int
    resident: int
    files: int
    threads: int

    @classmethod
    def now(cls, site: Site) -> ResourceUsage:
        """Measure."""
        return cls(
            -site.driver.free_bytes(),
            resident_bytes(),
            _count("/proc/self/fd"),
            _count("/proc/self/task"),
        )

    def since(self, other: ResourceUsage) -> ResourceUsage:
        """Return how much more this is."""
        return ResourceUsage(
            self.gpu - other.gpu,
            self.resident - other.resident,
            self.files - other.files,
            self.threads - other.threads,
        )

    def __str__(self) -> str:
        return (
            f"GPU memory {self.gpu / MIB:+.1f} MiB, process {self.resident / MIB:+.1f} MiB, "
            f"open files {self.files:+d}, threads {self.threads:+d}"
        )


def _count(folder: str) -> int:
    """Return the fewest entries of a few samples: a joined thread may be listed a moment longer."""
    found = []
    for _ in range(SAMPLES):
        found.append(sum(1 for _ in Path(folder).iterdir()))
        time.sleep(PAUSE_S)
    return min(found)


def check_engine(site: Site, report: AcceptanceReport) -> None:
    """Measure with the precision that speed is measured with."""
    rows = report.table(
        "Memory, MiB", "precision", "engine and ring on the GPU", "with its process", "worker"
    )
    report.check("memory of an engine", partial(_engine, site, rows))


def _engine(site: Site, rows: Rows) -> str:
    """Open the engine in this process, then in a worker; compare the GPU's free memory."""
    free = site.driver.free_bytes()
    with engine_loop.opened(site) as loop:
        loop.ring(loop.max_batch, 0.0)
        here = (free - site.driver.free_bytes()) / MIB
    free = site.driver.free_bytes()
    with closing(site.backend()) as backend:
        backend.run(backend.slots())
        there = (free - site.driver.free_bytes()) / MIB
        worker = _resident_mib(child(WORKER))
    rows.append((site.precision, f"{here:.1f}", f"{there:.1f}", f"{worker:.1f}"))
    return (
        f"{here:.0f} MiB of the GPU, {there:.0f} MiB with a process of its own, which has "
        f"{worker:.0f} MiB"
    )


def _resident_mib(process: int) -> float:
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))


def settled(site: Site, report: AcceptanceReport) -> List[int]:
    """Return the GPU's free memory, once libraries hold all that they ever do; [] if unknown."""
    free: List[int] = []

    def open_once() -> str:
        with engine_loop.opened(site, slots=1) as loop:
            loop.one_by_one(1, 0.0)
        free.append(site.driver.free_bytes())
        return f"{free[0] / MIB:.0f} MiB of the GPU are free"

    report.check("engine in this process", open_once)
    return free


def at_the_end(site: Site, free_before: Sequence[int]) -> str:
    """Compare the GPU's free memory with what `settled` found."""
    if site.driver.gpu().is_integrated:
        raise Skipped("the GPU shares the machine's memory, which files use as well")
    if not free_before:
        raise Skipped("no engine was opened at the beginning")
    left = free_before[0] - site.driver.free_bytes()
    found = f"{left / MIB:+.1f} MiB taken since the beginning"
    if left > LEFT_ALLOWED:
        raise Failed(f"{found}; {LEFT_ALLOWED // MIB} MiB are allowed")
    return found


def check_leaks(site: Site, report: AcceptanceReport) -> None:
    """Run the rounds."""
    rounds = site.scope.rounds
    report.check(f"{rounds} starts and stops", partial(_rounds, site, _round, rounds, WARM_UP))
    some = min(rounds, WORKER_ROUNDS)
    step = partial(_rounds, site, _worker_round, some, WORKER_WARM_UP)
    report.check(f"{some} starts and stops of a worker", step)


def _rounds(site: Site, step: Callable[[Site], None], rounds: int, warm_up: int) -> str:
    for _ in range(warm_up):
        step(site)
    before, began = ResourceUsage.now(site), time.monotonic()
    half = before
    for number in range(rounds):
        if number == rounds // 2:
            half = ResourceUsage.now(site)
        step(site)
    seconds, after = time.monotonic() - began, ResourceUsage.now(site)
    taken, second = after.since(before), after.since(half)
    found = f"{taken} (in the second half {second}); {1000 * seconds / rounds:.1f} ms each"
    why = _leak(half.since(before), second, SHARED if site.driver.gpu().is_integrated else 1)
    if why:
        raise Failed(f"{found}: {why}")
    return found


def _leak(first: ResourceUsage, second: ResourceUsage, times: int) -> str:
    """Return what isn't given back; "": nothing. times: what more the GPU's memory may grow."""
    if min(second.files, first.files + second.files) > 0:
        return "files are left open"
    if min(second.threads, first.threads + second.threads) > 0:
        return "threads are left"
    for early, late, factor in (
        (first.gpu, second.gpu, times),
        (first.resident, second.resident, 1),
    ):
        if early + late > ALLOWED * factor:
            return f"more than {ALLOWED * factor // MIB} MiB aren't given back"
        if late > STEADY * factor and late > early / 2:
            return "memory use grows with each round"
    return ""


def _round(site: Site) -> None:
    """Load the engine, run a batch through one slot as often as a graph needs, free all."""
    with engine_loop.opened(site, slots=1) as loop:
        loop.one_by_one(1, 0.0)


def _worker_round(site: Site) -> None:
    """Do the same in a worker process, as the agent does."""
    with closing(site.backend()) as backend:
        backend.run(backend.slots()[:1])
