"""The agent as it serves: its socket, shared memory, clients in processes of their own."""

from __future__ import annotations

import json
import time
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Iterator, List, Mapping

import numpy as np

from edge_agent.gpu_check import models
from edge_agent.gpu_check.report import AcceptanceReport, Failed, Rows, Skipped
from edge_agent.gpu_check.site import Site
from edge_agent.gpu_check.speed import Speed
from edge_agent.runtime.backends.trt import TrtBackend

MS = ("p50 ms", "p99 ms")
MORE_THAN_POSSIBLE = 2.0  # of the frames a second are due, so that clients never wait for one
NEEDED = ("grpc_health", "grpc_reflection", "prometheus_client", "sqlite3")
UNITS = 3  # of the front alone: as many as TensorRT has


def check(site: Site, report: AcceptanceReport, best: Speed) -> None:
    """Compare the agent with the loop, and see how soon a model runs that was built before."""
    clients = site.scope.clients
    columns = ("engine", "under way", "frames/s", "of the loop", *MS)
    rows = report.table(f"Served to {clients} clients", *columns)
    starts: List[float] = []
    front: List[float] = []
    report.check("front alone", partial(_front, site, best, front, rows))
    step = partial(_served, site, best, front, starts, rows)
    report.check(f"served to {clients} clients", step, "served")
    start = partial(_start, site, starts)
    report.check("StartModel with a built engine", start, "cached_start_s")


def _front(site: Site, best: Speed, front: List[float], rows: Rows) -> str:
    """Serve a model that computes next to nothing, on the CPU, to measure the agent itself."""
    path = models.write_noop(site.folder / "front", site.manifest)
    settings = {
        "backends": ["onnxruntime"], "threads": 1, "cpu_batches": True,
        "min_inference_units": UNITS, "max_inference_units": UNITS,
    }  # fmt: skip
    with serve(path, settings) as address:
        front.append(_measured(site, address, best, "none", rows))
    return f"{front[0]:.0f} frames/s with a model that computes next to nothing"


def _served(site: Site, best: Speed, front: List[float], starts: List[float], rows: Rows) -> str:
    """Serve the package of the site's precision by TensorRT alone, with the engines built here."""
    # In place of all other settings of engines: how many units there are is the agent's choice.
    settings = {"backends": ["tensorrt"], "wait_for_engine": True, "cache": str(site.cache)}
    with serve(site.packages[site.precision].path, settings) as address:
        starts.append(_start_again(address))
        fps = _measured(site, address, best, TrtBackend.name, rows)
    share, goal = fps / best.loop, site.scope.goals["served"]
    found = f"{fps:.0f} frames/s, {share:.3f} of the loop"
    if front:
        limit = "front" if front[0] < best.loop else "engine"
        found += f"; the {limit} is the limit: the front alone reaches {front[0]:.0f}"
    if share < goal:
        raise Failed(f"{found}; at least {goal:g} is required")
    return found


def _measured(site: Site, address: str, best: Speed, engine: str, rows: Rows) -> float:
    """Return the frames a second: with one frame of each client under way, or several, the better.

    The frames have the model's size.
    """
    from edge_agent.benchmark.clients import IN_FLIGHT
    from edge_agent.benchmark.jobs import Fleet
    from edge_agent.benchmark.results import ClientLoad
    from edge_agent.benchmark.served import MODEL

    frame, seconds, clients = site.folder / "frame.npy", site.scope.seconds, site.scope.clients
    np.save(frame, site.pictures[0])
    one_each = ClientLoad("shared_memory", clients)
    several_each = ClientLoad("shared_memory", clients, rate_fps=MORE_THAN_POSSIBLE * best.loop)
    with Fleet(address, MODEL, str(frame), clients) as fleet:
        fleet.turn(one_each, min(1.0, seconds))  # warms caches and mappings
        tallies = [fleet.turn(load, seconds) for load in (one_each, several_each)]
    for tally, under_way in zip(tallies, (clients, IN_FLIGHT * clients)):
        if tally.failures or not tally.latencies_ms:
            raise Failed(f"calls failed: {tally.failures or 'all'}")
        points = np.percentile(tally.latencies_ms, (50, 99))  # with several they show the backlog
        latencies = [f"{point:.2f}" if under_way == clients else "-" for point in points]
        fps = tally.throughput_fps
        rows.append((engine, str(under_way), f"{fps:.0f}", f"{fps / best.loop:.3f}", *latencies))
    return max(tally.throughput_fps for tally in tallies)


def _start(site: Site, starts: List[float]) -> str:
    if not starts:
        raise Skipped("the agent did not serve")
    goal = site.scope.goals["cached_start_s"]
    if starts[0] >= goal:
        raise Failed(f"RUNNING after {starts[0]:.2f} s; less than {goal:g} s is required")
    return f"RUNNING after {starts[0]:.2f} s"


@contextmanager
def serve(package: Path, engine: Mapping[str, object]) -> Iterator[str]:
    """Run an agent with these settings of engines; yields its address. Raises Skipped."""
    missing = [reason for reason in map(_import_error, NEEDED) if reason]
    if missing:
        raise Skipped(f"the agent needs modules that are missing: {'; '.join(missing)}")
    from edge_agent.benchmark.served import agent

    with agent(package, 1, 1, f"engine={json.dumps(engine)}") as address:
        yield address


def _import_error(module: str) -> str:
    try:
        import_module(module)
    except ImportError as error:
        return f"{module} ({error})"
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
