"""Supervises the inference units of a model that serves: hung ones, one more, one fewer."""

from __future__ import annotations

import logging
from concurrent.futures import Future
from functools import partial

from edge_agent.config import EngineSettings, ModelsSettings
from edge_agent.runtime.batching.batcher import Retired
from edge_agent.runtime.models.event_thread import EventThread
from edge_agent.runtime.models.loaded_model import LoadedModel, check_memory
from edge_agent.runtime.models.state import log_failure, reason
from edge_agent.runtime.system import stalls

log = logging.getLogger(__name__)


class UnitSupervisor:
    """Adds and removes units of one loaded model; `note` says for people what went wrong."""

    def __init__(self, name: str, loaded: LoadedModel, events: EventThread) -> None:
        self.note = ""
        self._name, self._loaded, self._events = name, loaded, events

    def supervise(self, models: ModelsSettings, engine: EngineSettings) -> None:
        """Give up units that hang; add and remove units as the load asks."""
        loaded = self._loaded
        hung = loaded.batcher.give_up_hung(engine.hang_after_s)
        if hung:
            log.error("%d engine calls of model %s hung; replacing their units.", hung, self._name)
            self.note = "An engine call hung; its unit is replaced."
        change = loaded.scaler.decide(stalls.ran_s(0.0), loaded.batcher.load())
        if change > 0 and not loaded.is_adding_unit:
            loaded.is_adding_unit = True
            self._events.start_job(partial(self._add_unit, models), self._on_added)
        elif change < 0 and loaded.batcher.remove():
            log.info("Model %s has one inference unit fewer.", self._name)
            self.note = ""

    def _add_unit(self, models: ModelsSettings) -> None:
        check_memory(self._loaded.registration, models)
        unit = self._loaded.selected.another()
        try:
            self._loaded.batcher.add(unit)
        except Retired:  # stopped or replaced meanwhile
            unit.close()
        else:
            log.info("Model %s has one inference unit more.", self._name)

    def _on_added(self, added: Future[None]) -> None:
        self._loaded.is_adding_unit = False
        error = added.exception()
        self.note = f"No further unit: {reason(error)}" if error else ""
        if error:
            log_failure("Model %s gets no further inference unit: %s", self._name, error)
