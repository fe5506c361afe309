"""Whether a model that is started and stopped again and again gives everything back."""

from __future__ import annotations

import time
from functools import partial

from edge_agent.gpu_check import looping
from edge_agent.gpu_check.report import Failed, Report
from edge_agent.gpu_check.site import MIB, Site
from edge_agent.runtime import memory

WARM_UP = 10  # rounds after which libraries have what they keep
ALLOWED = 32 * MIB  # drivers give memory back in blocks of 2 MiB and more
SHARED_ALLOWED = 256 * MIB  # where the GPU's memory is the machine's, others use it meanwhile


def check(site: Site, report: Report) -> None:
    """Run the rounds."""
    report.check(f"{site.scope.rounds} starts and stops", partial(_rounds, site))


def _rounds(site: Site) -> str:
    for _ in range(WARM_UP):
        _round(site)
    free, resident, began = site.driver.free_bytes(), memory.resident_bytes(), time.monotonic()
    for _ in range(site.scope.rounds):
        _round(site)
    gpu, rss = free - site.driver.free_bytes(), memory.resident_bytes() - resident
    each_ms = 1000 * (time.monotonic() - began) / site.scope.rounds
    found = f"GPU memory {gpu / MIB:+.1f} MiB, process {rss / MIB:+.1f} MiB, {each_ms:.1f} ms each"
    gpu_allowed = SHARED_ALLOWED if site.driver.gpu().is_integrated else ALLOWED
    if gpu > gpu_allowed or rss > ALLOWED:
        raise Failed(f"{found}; allowed are {gpu_allowed // MIB} and {ALLOWED // MIB} MiB")
    return found


def _round(site: Site) -> None:
    """Load the engine, run a batch through one slot as often as a graph needs, free all."""
    with looping.opened(site, slots=1) as loop:
        loop.one_by_one(1, 0.0)
