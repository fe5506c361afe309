"""How soon a built engine computes, and whether the GPU's memory is free again at the end."""

from __future__ import annotations

import time
from contextlib import closing

from edge_agent.gpu_check.report import Failed, Skipped
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


def memory(site: Site, free_before: int) -> str:
    """Compare the GPU's free memory with what it was before."""
    if site.driver.gpu().is_integrated:
        raise Skipped("the GPU shares the machine's memory, of which files take their part")
    left = free_before - site.driver.free_bytes()
    found = f"{left / MIB:+.1f} MiB taken since the beginning"
    if left > LEFT_ALLOWED:
        raise Failed(f"{found}; {LEFT_ALLOWED // MIB} MiB are allowed")
    return found
