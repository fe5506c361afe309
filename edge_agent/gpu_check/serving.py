"""The agent as it serves: its socket, shared memory, clients in processes of their own."""

from __future__ import annotations

import json
import time
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from typing import Iterator, List

import numpy as np

from edge_agent.gpu_check.report import Failed, Report, Skipped
from edge_agent.gpu_check.site import Site
from edge_agent.gpu_check.speed import Speed

NEEDED = ("grpc_health", "grpc_reflection", "prometheus_client", "sqlite3")


def check(site: Site, report: Report, best: Speed) -> None:
    """Compare the agent with the loop, and see how soon a model runs that was built before."""
    starts: List[float] = []
    report.check(f"served to {site.scope.clients} clients", partial(_served, site, best, starts))
    report.check("StartModel with a built engine", partial(_start, site, starts))


def _served(site: Site, best: Speed, starts: List[float]) -> str:
    from edge_agent.benchmark.results import Latency, Load
    from edge_agent.benchmark.served import MODEL
    from edge_agent.benchmark.workers import Fleet

    clients, frame = site.scope.clients, site.folder / "frame.npy"
    np.save(frame, site.pictures[0])
    with _agent(site) as address:
        starts.append(_start_again(address))
        with Fleet(address, MODEL, str(frame), clients) as fleet:
            fleet.turn(Load("shared_memory", clients), min(1.0, site.scope.seconds))
            tally = fleet.turn(Load("shared_memory", clients), site.scope.seconds)
    latency = Latency.of(tally.latencies_ms)
    if tally.failures or latency is None:
        raise Failed(f"calls failed: {tally.failures or 'all'}")
    share, goal = tally.throughput_fps / best.loop, site.scope.goals["served"]
    found = (
        f"{tally.throughput_fps:.0f} frames/s, {share:.3f} of the loop; p50 {latency.p50:.2f} ms, "
        f"p99 {latency.p99:.2f} ms"
    )
    if share < goal:
        raise Failed(f"{found}; at least {goal:g} is wanted")
    return found


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
