"""Looks after the inference units of a model that serves: hung ones, one more, one fewer."""

from __future__ import annotations

import logging
import threading
import time
from functools import partial
from typing import Callable

from edge_agent.config import EngineSettings, ModelsSettings
from edge_agent.errors import EdgeAgentError
from edge_agent.runtime.batching.batcher import Retired
from edge_agent.runtime.models.by_settings import check_memory
from edge_agent.runtime.models.loaded_model import Loaded

log = logging.getLogger(__name__)
THREAD_NAME = "model"


class UnitCare:
    """Adds units in threads of its own; `tell` is given what is new about a model, for people."""

    def __init__(self, name: str, tell: Callable[[Loaded, str], None]) -> None:
        self._name, self._tell = name, tell

    def look_after(self, loaded: Loaded, models: ModelsSettings, engine: EngineSettings) -> None:
        """Give up units that hang; add and remove units as the load asks."""
        hung = loaded.batcher.give_up_hung(engine.hang_after_s)
        if hung:
            log.error("%d engine calls of model %s hung; replacing their units.", hung, self._name)
            self._tell(loaded, f"{loaded.summary} An engine call hung; its unit is replaced.")
        change = loaded.scaler.decide(time.monotonic(), loaded.batcher.load())
        if change > 0 and loaded.growing.acquire(blocking=False):
            self._tell(loaded, loaded.summary)
            in_background(partial(self._grow, loaded, models))
        elif change < 0 and loaded.batcher.remove():
            log.info("Model %s has an inference unit fewer.", self._name)
            self._tell(loaded, loaded.summary)

    def _grow(self, loaded: Loaded, models: ModelsSettings) -> None:
        try:
            remark = self._add_unit(loaded, models)
        finally:
            loaded.growing.release()
        self._tell(loaded, f"{loaded.summary}{remark}")

    def _add_unit(self, loaded: Loaded, models: ModelsSettings) -> str:
        """Open one more unit; return what there is to remark about it."""
        try:
            check_memory(loaded.registration, models)
            unit = loaded.opened.another()
        except Exception as error:
            log_failure("Model %s gets no further inference unit: %s", self._name, error)
            return f" No further unit: {sentence(error)}"
        try:
            loaded.batcher.add(unit)
        except Retired:  # stopped or changed over meanwhile
            unit.close()
        else:
            log.info("Model %s has an inference unit more.", self._name)
        return ""


def log_failure(words: str, model: str, error: Exception) -> None:
    """Log what failed in a model's background; where it is a fault of ours, with its traceback."""
    log.warning(words, model, error, exc_info=not isinstance(error, EdgeAgentError))


def sentence(error: Exception) -> str:
    """Return what a person is told; an unexpected error is in the log."""
    if isinstance(error, EdgeAgentError):
        return str(error)
    return f"Unexpected {type(error).__name__}; see the log."


def in_background(work: Callable[[], object]) -> threading.Thread:
    """Run `work` in a daemon thread of its own, which never holds up the process's end."""
    thread = threading.Thread(target=work, name=THREAD_NAME, daemon=True)
    thread.start()
    return thread
