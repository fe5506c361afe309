"""How soon a model starts: from an engine in the cache, and on a device that has none yet.

Without one the CPU serves at once, and TensorRT when its engine is built.
"""

from __future__ import annotations

import shutil
import time
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, List

from edge_agent.errors import EdgeAgentError
from edge_agent.gpu_check.report import AcceptanceReport, Failed, Rows
from edge_agent.gpu_check.serving import serve
from edge_agent.gpu_check.site import Site
from edge_agent.runtime.backends.ort import OrtBackend
from edge_agent.runtime.backends.trt import TrtBackend

if TYPE_CHECKING:
    from edge_agent.client import Client

BUILT_WITHIN_S = 3600.0
POLL_EVERY_S = 0.2
PAUSE_S = 0.02  # between calls, as cameras make them: building needs the CPU too
CALLS_AFTER = 20  # by the new engine


def from_cache(site: Site) -> str:
    """Open an engine of the cache in a new process and compute one picture."""
    began = time.monotonic()
    with closing(site.backend()) as backend:
        backend.run(backend.slots()[:1])
        seconds = time.monotonic() - began
    goal = site.scope.goals["cached_start_s"]
    if seconds >= goal:
        raise Failed(f"first result after {seconds:.2f} s; less than {goal:g} s is required")
    return f"first result after {seconds:.2f} s"


def check(site: Site, report: AcceptanceReport) -> None:
    """Start once with an empty cache."""
    rows = report.table("Cold start", "RUNNING on the CPU, s", "on TensorRT, s", "calls meanwhile")
    report.check("StartModel without an engine", partial(_start, site, rows))


def _start(site: Site, rows: Rows) -> str:
    cache = site.folder / "cold"
    settings = {"backends": [TrtBackend.name, OrtBackend.name], "cache": str(cache)}
    with serve(site.packages[site.precision].path, settings) as address:
        from edge_agent.benchmark.served import MODEL
        from edge_agent.client import Client

        with Client(address) as client:
            client.stop(MODEL)  # and start it again: the agent's own start doesn't count
            shutil.rmtree(cache, ignore_errors=True)
            began = time.monotonic()
            info = client.start(MODEL)
            running_s = time.monotonic() - began
            if not _is_by(OrtBackend.name, info.message):
                raise Failed(f"the CPU did not serve first: {info.message}")
            failed: List[str] = []
            calls = _call_until_swapped(client, MODEL, site, failed)
            swapped_s = time.monotonic() - began
            calls += _call(client, MODEL, site, CALLS_AFTER, failed)
    rows.append((f"{running_s:.2f}", f"{swapped_s:.1f}", str(calls)))
    found = f"RUNNING on the CPU after {running_s:.2f} s, on TensorRT after {swapped_s:.1f} s"
    if failed:
        raise Failed(f"{found}; {len(failed)} of {calls} calls failed: {failed[0]}")
    return f"{found}; {calls} calls, none failed"


def _call_until_swapped(client: Client, model: str, site: Site, failed: List[str]) -> int:
    """Call all the time until TensorRT serves; returns how often."""
    calls, end, message = 0, time.monotonic() + BUILT_WITHIN_S, ""
    while not _is_by(TrtBackend.name, message):
        if time.monotonic() > end or f"Not on {TrtBackend.name}" in message:
            raise Failed(f"TensorRT doesn't serve: {message}")
        next_poll = time.monotonic() + POLL_EVERY_S
        while time.monotonic() < next_poll:
            calls += _call(client, model, site, 1, failed)
        message = client.describe(model).message
    return calls


def _call(client: Client, model: str, site: Site, count: int, failed: List[str]) -> int:
    for _ in range(count):
        try:
            client.detect(model, site.pictures[0])
        except EdgeAgentError as error:
            failed.append(str(error))
        time.sleep(PAUSE_S)
    return count


def _is_by(engine: str, message: str) -> bool:
    return f"{engine} on " in message
