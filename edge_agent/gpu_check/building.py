"""Engines in each precision, built as the agent builds them: in a child, into a cache."""

from __future__ import annotations

import time
from functools import partial
from typing import Callable

from edge_agent.errors import BackendUnavailable
from edge_agent.gpu_check.models import PRECISIONS, at_precision, good_pictures
from edge_agent.gpu_check.report import Report, Rows, Skipped, Tell
from edge_agent.gpu_check.site import MIB, Site
from edge_agent.runtime.engines.build import Progress
from edge_agent.runtime.engines.supply import EngineOrder, ToBuild
from edge_agent.targets import Precision

TELL_EVERY_S = 15.0


def check(site: Site, report: Report) -> None:
    """Build one engine a precision."""
    rows = report.table("Engines", "precision", "seconds", "MiB", "graph")
    for precision in PRECISIONS:
        report.check(f"engine {precision}", partial(build, site, precision, rows, report.tell))


def build(site: Site, precision: Precision, rows: Rows, tell: Tell) -> str:
    """Build one and note it in `site`; a row goes into `rows`. Raises as a check."""
    typed = not site.machine.has_fp16_flag
    if precision == "int8" and typed:
        raise Skipped("this TensorRT takes int8 from the graph alone, and this graph has none")
    count = site.scope.pictures if precision == "int8" else 0
    good = good_pictures(count, site.base.manifest)
    folder = site.folder / "packages" / f"{site.base.manifest.name}-{precision}"
    package = at_precision(site.base, precision, site.scope.batches, good, typed, folder)
    candidate = next(site.supply.candidates(package))
    began = time.monotonic()
    site.supply.build(EngineOrder(candidate), _told(tell, precision))
    seconds = time.monotonic() - began
    refusal = site.supply.refusal(candidate)
    if refusal:
        raise BackendUnavailable(refusal)
    found = site.supply.look_up(candidate)
    if isinstance(found, ToBuild):
        raise BackendUnavailable(found.why)
    engine = found.path
    site.packages[precision], site.engines[precision] = package, engine
    size_mib = engine.stat().st_size / MIB
    rows.append((precision, f"{seconds:.1f}", f"{size_mib:.1f}", candidate.graph))
    return f"built in {seconds:.1f} s, {size_mib:.1f} MiB"


def _told(tell: Tell, precision: str) -> Callable[[Progress], None]:
    """Return what passes the progress on, not too often."""
    last_s = time.monotonic()

    def on_progress(progress: Progress) -> None:
        nonlocal last_s
        if time.monotonic() - last_s >= TELL_EVERY_S:
            last_s = time.monotonic()
            tell(f"         engine {precision}: {progress}")

    return on_progress
