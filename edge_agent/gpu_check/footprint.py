"""How much memory an engine takes: of the GPU, and of the worker process that runs it."""

from __future__ import annotations

from contextlib import closing
from functools import partial
from pathlib import Path

from edge_agent.gpu_check import looping
from edge_agent.gpu_check.faults import WORKER, child
from edge_agent.gpu_check.report import Report, Rows
from edge_agent.gpu_check.site import MIB, Site


def check(site: Site, report: Report) -> None:
    """Measure with the precision that speed is measured with."""
    rows = report.table(
        "Memory, MiB", "precision", "engine and ring on the GPU", "with its process", "worker"
    )
    report.check("memory of an engine", partial(_measure, site, rows))


def _measure(site: Site, rows: Rows) -> str:
    """Open the engine in this process, then in a worker; the GPU's free memory says the rest."""
    free = site.driver.free_bytes()
    with looping.opened(site) as loop:
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
