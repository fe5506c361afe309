"""Whether a model that is started and stopped again and again gives everything back."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Callable

from edge_agent.gpu_check import looping
from edge_agent.gpu_check.report import Failed, Report
from edge_agent.gpu_check.site import MIB, Site
from edge_agent.runtime.system import memory

WARM_UP = 10  # rounds after which libraries have what they keep
WORKER_ROUNDS = 20
WORKER_WARM_UP = 1
ALLOWED = 32 * MIB  # drivers give memory back in blocks of 2 MiB and more
STEADY = 4 * MIB  # what the second half of the rounds may take, if it isn't less than the first
LOOKS, PAUSE_S = 5, 0.01
SHARED = 8  # times as much, where the GPU's memory is the machine's: others use it meanwhile


@dataclass(frozen=True)
class Usage:
    """What this process holds: bytes of the GPU and of the machine, open files, threads."""

    gpu: int
    resident: int
    files: int
    threads: int

    @classmethod
    def now(cls, site: Site) -> Usage:
        """Look."""
        return cls(
            -site.driver.free_bytes(),
            memory.resident_bytes(),
            _count("/proc/self/fd"),
            _count("/proc/self/task"),
        )

    def since(self, other: Usage) -> Usage:
        """Return how much more this is."""
        return Usage(
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
    """Return the fewest entries of a few looks: a thread that was joined may be there a moment."""
    found = []
    for _ in range(LOOKS):
        found.append(sum(1 for _ in Path(folder).iterdir()))
        time.sleep(PAUSE_S)
    return min(found)


def check(site: Site, report: Report) -> None:
    """Run the rounds."""
    rounds = site.scope.rounds
    report.check(f"{rounds} starts and stops", partial(_rounds, site, _round, rounds, WARM_UP))
    some = min(rounds, WORKER_ROUNDS)
    step = partial(_rounds, site, _worker_round, some, WORKER_WARM_UP)
    report.check(f"{some} starts and stops of a worker", step)


def _rounds(site: Site, step: Callable[[Site], None], rounds: int, warm_up: int) -> str:
    for _ in range(warm_up):
        step(site)
    before, began = Usage.now(site), time.monotonic()
    half = before
    for number in range(rounds):
        if number == rounds // 2:
            half = Usage.now(site)
        step(site)
    seconds, after = time.monotonic() - began, Usage.now(site)
    taken, second = after.since(before), after.since(half)
    found = f"{taken} (in the second half {second}); {1000 * seconds / rounds:.1f} ms each"
    why = _leak(half.since(before), second, SHARED if site.driver.gpu().is_integrated else 1)
    if why:
        raise Failed(f"{found}: {why}")
    return found


def _leak(first: Usage, second: Usage, times: int) -> str:
    """Say what isn't given back; "": all is. times: what more the GPU's memory may grow."""
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
            return "it takes more and more"
    return ""


def _round(site: Site) -> None:
    """Load the engine, run a batch through one slot as often as a graph needs, free all."""
    with looping.opened(site, slots=1) as loop:
        loop.one_by_one(1, 0.0)


def _worker_round(site: Site) -> None:
    """Do the same in a worker process, as the agent does."""
    with closing(site.backend()) as backend:
        backend.run(backend.slots()[:1])
