"""How soon a built engine computes, and whether the GPU's memory is free again at the end."""

from __future__ import annotations

import time
from contextlib import closing
from typing import List, Sequence

from edge_agent.gpu_check import looping
from edge_agent.gpu_check.report import Failed, Report, Skipped
from edge_agent.gpu_check.site import MIB, Site

LEFT_ALLOWED = 256 * MIB  # what TensorRT's and CUDA's libraries keep in this process


def cached(site: Site) -> str:
    """Open an engine of the cache in a new process and compute one picture."""
    began = time.monotonic()
    with closing(site.backend()) as backend:
        backend.run(backend.slots()[:1])
        seconds = time.monotonic() - began
    goal = site.scope.goals["cached_start_s"]
    if seconds >= goal:
        raise Failed(f"first result after {seconds:.2f} s; less than {goal:g} s is wanted")
    return f"first result after {seconds:.2f} s"


def settled(site: Site, report: Report) -> List[int]:
    """Return the GPU's free memory, once libraries have taken what they keep; [] if unknown."""
    free: List[int] = []

    def open_once() -> str:
        with looping.opened(site, slots=1) as loop:
            loop.one_by_one(1, 0.0)
        free.append(site.driver.free_bytes())
        return f"{free[0] / MIB:.0f} MiB of the GPU are free"

    report.check("engine in this process", open_once)
    return free


def memory(site: Site, free_before: Sequence[int]) -> str:
    """Compare the GPU's free memory with what `settled` found."""
    if site.driver.gpu().is_integrated:
        raise Skipped("the GPU shares the machine's memory, of which files take their part")
    if not free_before:
        raise Skipped("no engine was opened at the beginning")
    left = free_before[0] - site.driver.free_bytes()
    found = f"{left / MIB:+.1f} MiB taken since the beginning"
    if left > LEFT_ALLOWED:
        raise Failed(f"{found}; {LEFT_ALLOWED // MIB} MiB are allowed")
    return found
