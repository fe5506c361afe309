"""Engines in each precision, built as the agent builds them: in a child, into a cache."""

from __future__ import annotations

import time
from functools import partial
from typing import Callable

from edge_agent.errors import BackendUnavailable
from edge_agent.gpu_check.models import PRECISIONS, at_precision, good_pictures
from edge_agent.gpu_check.report import AcceptanceReport, Print, Rows, Skipped
from edge_agent.gpu_check.site import MIB, Site
from edge_agent.runtime.engines.build import BuildProgress
from edge_agent.runtime.engines.supply import EngineOrder, ToBuild
from edge_agent.targets import Precision

PRINT_EVERY_S = 15.0


def check(site: Site, report: AcceptanceReport) -> None:
    """Build one engine a precision."""
    rows = report.table("Engines", "precision", "seconds", "MiB", "graph")
    for precision in PRECISIONS:
        report.check(
            f"engine {precision}", partial(build, site, precision, rows, report.print_line)
        )


def build(site: Site, precision: Precision, rows: Rows, print_line: Print) -> str:
    """Build one and record it in `site`; a row goes into `rows`. Raises as a check."""
    typed = not site.machine.has_fp16_flag
    if precision == "int8" and typed:
        raise Skipped("this TensorRT takes int8 from the graph alone, and this graph has none")
    count = site.scope.pictures if precision == "int8" else 0
    good = good_pictures(count, site.base.manifest)
    folder = site.folder / "packages" / f"{site.base.manifest.name}-{precision}"
    package = at_precision(site.base, precision, site.scope.batches, good, typed, folder)
    candidate = next(site.supply.candidates(package))
    began = time.monotonic()
    site.supply.build(EngineOrder(candidate), _progress_printer(print_line, precision))
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


def _progress_printer(print_line: Print, precision: str) -> Callable[[BuildProgress], None]:
    """Return a callback that prints the progress, not too often."""
    last_s = time.monotonic()

    def on_progress(progress: BuildProgress) -> None:
        nonlocal last_s
        if time.monotonic() - last_s >= PRINT_EVERY_S:
            last_s = time.monotonic()
            print_line(f"         engine {precision}: {progress}")

    return on_progress
