"""The agent as it serves: its socket, shared memory, clients in processes of their own."""

from __future__ import annotations

import json
import time
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Iterator, List, Sequence

import numpy as np

from edge_agent.gpu_check.report import Failed, Report, Rows, Skipped
from edge_agent.gpu_check.site import Site
from edge_agent.gpu_check.speed import Speed

if TYPE_CHECKING:
    from edge_agent.benchmark.loops import Tally
    from edge_agent.benchmark.results import Load

MS = ("p50 ms", "p99 ms")
MORE_THAN_POSSIBLE = (
    2.0  # of the loop's frames a second are due, so that clients never wait for one
)
NEEDED = ("grpc_health", "grpc_reflection", "prometheus_client", "sqlite3")


def check(site: Site, report: Report, best: Speed) -> None:
    """Compare the agent with the loop, and see how soon a model runs that was built before."""
    clients = site.scope.clients
    rows = report.table(f"Served to {clients} clients", "under way", "frames/s", "of the loop", *MS)
    starts: List[float] = []
    report.check(f"served to {clients} clients", partial(_served, site, best, starts, rows))
    report.check("StartModel with a built engine", partial(_start, site, starts))


def _served(site: Site, best: Speed, starts: List[float], rows: Rows) -> str:
    """Let each client have one frame under way at a time, then several; the better counts."""
    from edge_agent.benchmark.clients import IN_FLIGHT
    from edge_agent.benchmark.results import Load

    clients = site.scope.clients
    one_each = Load("shared_memory", clients)
    several_each = Load("shared_memory", clients, rate_fps=MORE_THAN_POSSIBLE * best.loop)
    with _agent(site) as address:
        starts.append(_start_again(address))
        tallies = _measured(site, address, [one_each, several_each])
    for tally, under_way in zip(tallies, (clients, IN_FLIGHT * clients)):
        if tally.failures or not tally.latencies_ms:
            raise Failed(f"calls failed: {tally.failures or 'all'}")
        fps = tally.throughput_fps
        points = np.percentile(tally.latencies_ms, (50, 99))  # of several they tell of the backlog
        latencies = [f"{point:.2f}" if under_way == clients else "-" for point in points]
        rows.append((str(under_way), f"{fps:.0f}", f"{fps / best.loop:.3f}", *latencies))
    fps, goal = max(tally.throughput_fps for tally in tallies), site.scope.goals["served"]
    found = f"{fps:.0f} frames/s, {fps / best.loop:.3f} of the loop"
    if fps / best.loop < goal:
        raise Failed(f"{found}; at least {goal:g} is wanted")
    return found


def _measured(site: Site, address: str, loads: Sequence[Load]) -> List[Tally]:
    """Send each load for a while, with frames of the model's size."""
    from edge_agent.benchmark.served import MODEL
    from edge_agent.benchmark.workers import Fleet

    frame, seconds = site.folder / "frame.npy", site.scope.seconds
    np.save(frame, site.pictures[0])
    with Fleet(address, MODEL, str(frame), site.scope.clients) as fleet:
        fleet.turn(loads[0], min(1.0, seconds))  # warms caches and mappings
        return [fleet.turn(load, seconds) for load in loads]


def _start(site: Site, starts: List[float]) -> str:
    if not starts:
        raise Skipped("the agent didn't serve")
    goal = site.scope.goals["cached_start_s"]
    if starts[0] >= goal:
        raise Failed(f"RUNNING after {starts[0]:.2f} s; less than {goal:g} s is wanted")
    return f"RUNNING after {starts[0]:.2f} s"


@contextmanager
def _agent(site: Site) -> Iterator[str]:
    """Serve the package of the site's precision by TensorRT alone, with the engines built here."""
    missing = [reason for reason in map(_cant_import, NEEDED) if reason]
    if missing:
        raise Skipped(f"the agent needs what isn't here: {'; '.join(missing)}")
    from edge_agent.benchmark.served import agent

    # In place of all other settings of engines: how many units there are is the agent's choice.
    engine = {"backends": ["tensorrt"], "wait_for_engine": True, "cache": str(site.cache)}
    path = site.packages[site.precision].path
    with agent(path, 1, 1, f"engine={json.dumps(engine)}") as address:
        yield address


def _cant_import(module: str) -> str:
    try:
        import_module(module)
    except ImportError as error:
        return str(error)
    return ""


def _start_again(address: str) -> float:
    """Stop the model and start it again; return the seconds until it runs."""
    from edge_agent.benchmark.served import MODEL
    from edge_agent.client import Client

    with Client(address) as client:
        client.stop(MODEL)
        began = time.monotonic()
        client.start(MODEL)
        return time.monotonic() - began
