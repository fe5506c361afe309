"""Name → served model. Registrations come and go while the agent runs.

One thread calls `sync` and `close`; any thread may find and list.
"""

from __future__ import annotations

import logging
import threading
import time
from functools import partial
from typing import Callable, Dict, List, Mapping, Set

from edge_agent.config import EngineSettings, ModelsSettings
from edge_agent.errors import EdgeAgentError, InvalidRequest, ModelNotFound
from edge_agent.runtime.model import ServedModel, in_background
from edge_agent.runtime.store import Registration
from edge_agent.types import ModelInfo

log = logging.getLogger(__name__)


class Registry:
    """Owns the served models; `on_change` hears of every change of state, `on_gone` of removals."""

    def __init__(
        self,
        models: ModelsSettings,
        engine: EngineSettings,
        on_change: Callable[[ModelInfo], None] = lambda info: None,
        on_gone: Callable[[str], None] = lambda name: None,
    ) -> None:
        self._settings = (models, engine)
        self._on_change, self._on_gone = on_change, on_gone
        self._models: Dict[str, ServedModel] = {}  # replaced as a whole, never changed
        self._missing: Set[str] = set()
        self._changes: List[threading.Thread] = []

    def find(self, name: str) -> ServedModel:
        """Return the model. Raises InvalidRequest for an empty name, ModelNotFound."""
        if not name:
            raise InvalidRequest("model_component is empty; name a deployed model.")
        try:
            return self._models[name]
        except KeyError:
            raise ModelNotFound.named(name, sorted(self._models)) from None

    def list(self) -> List[ModelInfo]:
        """Return every deployed model, by name."""
        return [model.info() for _, model in sorted(self._models.items())]

    def sync(self, registrations: Mapping[str, Registration]) -> None:
        """Make the models those of `registrations`; work that takes time goes on afterwards.

        A model goes when it is missing twice in a row: whoever replaces a package by moving the
        old one away first leaves a moment without any.
        """
        missing = {name for name in self._models if name not in registrations}
        gone, self._missing = missing & self._missing, missing - self._missing
        for name in gone:
            log.info("Model %s was removed.", name)
            self._later(self._models[name].retire)
            self._models = {key: model for key, model in self._models.items() if key != name}
            self._on_gone(name)
        for name, registration in registrations.items():
            known = self._models.get(name)
            if known is None:
                self._add(registration)
            elif known.registration != registration:
                self._later(partial(known.replace, registration))

    def tend(self) -> None:
        """Look after every model's inference units."""
        for model in self._models.values():
            model.tend()

    def close(self, within_s: float) -> None:
        """Retire every model; one that takes longer than `within_s` is left behind."""
        end = time.monotonic() + within_s
        for model in self._models.values():
            self._later(model.retire)
        self._models = {}
        for change in self._changes:
            change.join(max(0.0, end - time.monotonic()))

    def _add(self, registration: Registration) -> None:
        model = ServedModel(registration, *self._settings, self._on_change)
        self._models = {**self._models, registration.name: model}
        self._on_change(model.info())
        log.info("Model %s is deployed from %s.", registration.name, registration.package)
        if registration.autostart:
            try:
                model.start()
            except EdgeAgentError as error:
                log.error("Model %s can't start by itself: %s", registration.name, error)  # noqa: TRY400

    def _later(self, change: Callable[[], object]) -> None:
        self._changes = [thread for thread in self._changes if thread.is_alive()]
        self._changes.append(in_background(change))
