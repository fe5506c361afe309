"""Composition root: builds the rooms, starts them in order, stops them in order."""

from __future__ import annotations

import logging
import os
import signal
import threading
from queue import Empty, SimpleQueue
from typing import Optional

from edge_agent import __version__
from edge_agent.config import Settings
from edge_agent.errors import InvalidConfiguration
from edge_agent.runtime import memory, model
from edge_agent.runtime.batching import batcher
from edge_agent.runtime.detector import Detector
from edge_agent.runtime.metrics import Metrics
from edge_agent.runtime.registry import Registry
from edge_agent.runtime.remote.commands import RemoteCommands
from edge_agent.runtime.results.room import ResultsRoom
from edge_agent.runtime.rpc.server import Server
from edge_agent.runtime.store import Store
from edge_agent.runtime.vision import preprocess
from edge_agent.runtime.vision.frame import FrameReader
from edge_agent.types import ModelInfo

log = logging.getLogger(__name__)

ENGINE_THREADS = (batcher.THREAD_NAME, model.THREAD_NAME)
FREE_WITHIN_S = 0.5
STORE_WITHIN_S = 0.5
DECISIONS_FILE = "decisions.json"
NUCLEUS_LOST = 1  # exit status: the nucleus then starts the component anew, with a fresh token


def run(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT, or until the nucleus is lost; returns the exit status.

    Raises InvalidConfiguration when it cannot begin.
    """
    memory.keep_heap()
    preprocess.use_one_thread()  # inference units are the parallelism; more would fight them
    stop_asked: SimpleQueue[int] = SimpleQueue()  # its put may interrupt any line, its own as well
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: stop_asked.put(0))
    status = _serve(settings, stop_asked)
    if any(thread.name in ENGINE_THREADS for thread in threading.enumerate()):
        # An engine is still loading or computing; tearing the interpreter down under it may crash.
        logging.shutdown()
        os._exit(status)
    return status


def _serve(settings: Settings, stop_asked: SimpleQueue[int]) -> int:
    frames = FrameReader()
    store = Store(settings.models)
    metrics = Metrics()

    def show(info: ModelInfo) -> None:
        server.show(info)
        units = info.inference_units, info.desired_units, info.least_units, info.most_units
        metrics.has_units(info.name, *units)

    def forget(name: str) -> None:
        server.forget(name)
        room.forget(name)

    def lose(why: str) -> None:
        log.error("%s", why)
        stop_asked.put(NUCLEUS_LOST)

    room = ResultsRoom(settings.results, metrics, on_nucleus_lost=lose)
    folder = settings.results.folder
    registry = Registry(
        settings.models,
        settings.engine,
        on_change=show,
        on_gone=forget,
        decisions=folder / DECISIONS_FILE if folder else None,
    )
    detector = Detector(registry, frames, room.recorder.observe)
    if settings.results.commands.allow:
        allow = settings.results.commands.allow
        room.serve_commands(RemoteCommands(detector, allow, room.last_capture).answer)
    server = Server(settings.server, detector, metrics)
    addresses = server.listen()
    if settings.server.metrics is not None:
        addresses.append(_serve_metrics(metrics, settings.server.metrics))
    _look(store, registry)  # before the first call, which must not find a model missing
    room.start()
    server.start()
    log.info("Edge agent %s listens on %s.", __version__, ", ".join(addresses))
    while (status := _asked(stop_asked, settings.models.rescan_every_s)) is None:
        frames.sweep()
        _look(store, registry)
        _tend(room)

    log.info("Stopping: no new calls; those in flight may finish.")
    server.stop(settings.server.stop_within_s)
    registry.close(FREE_WITHIN_S)
    room.close(STORE_WITHIN_S)
    log.info("Stopped.")
    return status


def _asked(queue: SimpleQueue[int], within_s: float) -> Optional[int]:
    """Return the exit status when the agent is to stop, None when nobody asked."""
    try:
        return queue.get(timeout=within_s)
    except Empty:
        return None


def _look(store: Store, registry: Registry) -> None:
    """Take over what is deployed now; an unreadable folder leaves everything as it was."""
    try:
        registry.sync(store.scan())
        registry.tend()
    except Exception:
        log.exception("Looking after the models failed; trying again.")


def _tend(room: ResultsRoom) -> None:
    try:
        room.tend()
    except Exception:
        log.exception("Looking after the results failed; trying again.")


def _serve_metrics(metrics: Metrics, address: str) -> str:
    host, _, port = address.rpartition(":")
    try:
        metrics.serve(host.strip("[]") or "127.0.0.1", int(port))
    except OSError as error:
        raise InvalidConfiguration(f"server.metrics: can't listen on {address}: {error}") from None
    return f"http://{address}/metrics"
