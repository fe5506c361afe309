"""Composition root: builds the rooms, starts them in order, stops them in order."""

from __future__ import annotations

import logging
import os
import signal
import threading
from queue import Empty, SimpleQueue

from edge_agent import __version__
from edge_agent.config import Settings
from edge_agent.errors import InvalidConfiguration
from edge_agent.runtime import memory, model
from edge_agent.runtime.batching import batcher
from edge_agent.runtime.detector import Detector
from edge_agent.runtime.metrics import Metrics
from edge_agent.runtime.registry import Registry
from edge_agent.runtime.rpc.server import Server
from edge_agent.runtime.store import Store
from edge_agent.runtime.vision import preprocess
from edge_agent.runtime.vision.frame import FrameReader
from edge_agent.types import ModelInfo

log = logging.getLogger(__name__)

ENGINE_THREADS = (batcher.THREAD_NAME, model.THREAD_NAME)
FREE_WITHIN_S = 1.0


def run(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT. Raises InvalidConfiguration when it cannot begin."""
    memory.keep_heap()
    preprocess.use_one_thread()  # inference units are the parallelism; more would fight them
    stop_asked: SimpleQueue[int] = SimpleQueue()  # its put may interrupt any line, its own as well
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _frame: stop_asked.put(number))
    _serve(settings, stop_asked)
    if any(thread.name in ENGINE_THREADS for thread in threading.enumerate()):
        # An engine is still loading or computing; tearing the interpreter down under it may crash.
        logging.shutdown()
        os._exit(0)


def _serve(settings: Settings, stop_asked: SimpleQueue[int]) -> None:
    frames = FrameReader()
    store = Store(settings.models)
    metrics = Metrics()

    def show(info: ModelInfo) -> None:
        server.show(info)
        units = info.inference_units, info.desired_units, info.least_units, info.most_units
        metrics.has_units(info.name, *units)

    registry = Registry(
        settings.models,
        settings.engine,
        on_change=show,
        on_gone=lambda name: server.forget(name),
    )
    server = Server(settings.server, Detector(registry, frames), metrics)
    addresses = server.listen()
    if settings.server.metrics is not None:
        addresses.append(_serve_metrics(metrics, settings.server.metrics))
    _look(store, registry)  # before the first call, which must not find a model missing
    server.start()
    log.info("Edge agent %s listens on %s.", __version__, ", ".join(addresses))
    while not _comes(stop_asked, settings.models.rescan_every_s):
        frames.sweep()
        _look(store, registry)

    log.info("Stopping: no new calls; those in flight may finish.")
    server.stop(settings.server.stop_within_s)
    registry.close(FREE_WITHIN_S)
    log.info("Stopped.")


def _comes(queue: SimpleQueue[int], within_s: float) -> bool:
    try:
        queue.get(timeout=within_s)
    except Empty:
        return False
    return True


def _look(store: Store, registry: Registry) -> None:
    """Take over what is deployed now; an unreadable folder leaves everything as it was."""
    try:
        registry.sync(store.scan())
        registry.tend()
    except Exception:
        log.exception("Looking after the models failed; trying again.")


def _serve_metrics(metrics: Metrics, address: str) -> str:
    host, _, port = address.rpartition(":")
    try:
        metrics.serve(host.strip("[]") or "127.0.0.1", int(port))
    except OSError as error:
        raise InvalidConfiguration(f"server.metrics: can't listen on {address}: {error}") from None
    return f"http://{address}/metrics"
