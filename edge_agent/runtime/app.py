"""Composition root: builds the rooms, starts them in order, stops them in order."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
from typing import Any, Coroutine, Set

from edge_agent import __version__
from edge_agent.config import Settings
from edge_agent.runtime import memory, model
from edge_agent.runtime.batching import batcher
from edge_agent.runtime.detector import Detector
from edge_agent.runtime.registry import Registry
from edge_agent.runtime.rpc.server import Server
from edge_agent.runtime.store import Store
from edge_agent.runtime.vision import preprocess
from edge_agent.runtime.vision.frame import FrameReader

log = logging.getLogger(__name__)

ENGINE_THREADS = (batcher.THREAD_NAME, model.THREAD_NAME)


def run(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT. Raises InvalidConfiguration when it cannot begin."""
    memory.keep_heap()
    preprocess.use_one_thread()  # inference units are the parallelism; more would fight them
    asyncio.run(_serve(settings))
    if any(thread.name in ENGINE_THREADS for thread in threading.enumerate()):
        # An engine is still loading or computing; tearing the interpreter down under it may crash.
        logging.shutdown()
        os._exit(0)


async def _serve(settings: Settings) -> None:
    stop_asked = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop_asked.set)
    news: Set[asyncio.Task[None]] = set()

    def tell(news_item: Coroutine[Any, Any, None]) -> None:
        task = loop.create_task(news_item)
        news.add(task)
        task.add_done_callback(news.discard)

    frames = FrameReader()
    store = Store(settings.models)
    registry = Registry(
        settings.models,
        settings.engine,
        on_change=lambda info: tell(server.show(info)),
        on_gone=lambda name: tell(server.forget(name)),
    )
    server = Server(settings.server, Detector(registry, frames))
    addresses = server.listen()
    await _look(store, registry)  # before the first call, which must not find a model missing
    await server.start()
    log.info("Edge agent %s listens on %s.", __version__, ", ".join(addresses))
    housekeeping = loop.create_task(_keep_house(settings, store, registry, frames))
    await stop_asked.wait()

    log.info("Stopping: no new calls; those in flight may finish.")
    housekeeping.cancel()
    await server.stop(settings.server.stop_within_s)
    await asyncio.wait([loop.create_task(registry.close())], timeout=1.0)
    log.info("Stopped.")


async def _keep_house(
    settings: Settings, store: Store, registry: Registry, frames: FrameReader
) -> None:
    while True:
        await asyncio.sleep(settings.models.rescan_every_s)
        frames.sweep()
        await _look(store, registry)


async def _look(store: Store, registry: Registry) -> None:
    """Take over what is deployed now; an unreadable folder leaves everything as it was."""
    try:
        registry.sync(await asyncio.get_running_loop().run_in_executor(None, store.scan))
    except Exception:
        log.exception("Looking for changed models failed; trying again.")
