"""Name → served model. Registrations come and go while the agent runs.

One thread calls `sync`, `follow` and `close`; any thread may do the rest.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import AbstractSet, Callable, Dict, List, Mapping, Optional

from edge_agent.config import EngineSettings, ModelsSettings
from edge_agent.errors import EdgeAgentError, InvalidRequest, ModelNotFound
from edge_agent.runtime.engines.supply import EngineSupply
from edge_agent.runtime.models.by_settings import configured
from edge_agent.runtime.models.served_model import ServedModel
from edge_agent.runtime.models.thresholds import Thresholds
from edge_agent.runtime.models.unit_supervisor import in_background
from edge_agent.runtime.packages.deployments import Registration
from edge_agent.types import ModelInfo, ModelState

log = logging.getLogger(__name__)


class Registry:
    """Owns the served models; `on_change` hears of every change of state, `on_gone` of removals.

    `decisions`: where thresholds set meanwhile are kept; None: only until the process ends.
    """

    def __init__(
        self,
        models: ModelsSettings,
        engine: EngineSettings,
        on_change: Callable[[ModelInfo], None] = lambda info: None,
        on_gone: Callable[[str], None] = lambda name: None,
        decisions: Optional[Path] = None,
    ) -> None:
        self._settings = (models, engine)
        self._supply = EngineSupply(engine)
        self._on_change, self._on_gone = on_change, on_gone
        self._models: Dict[str, ServedModel] = {}  # replaced as a whole, never changed
        self._deployed: Mapping[str, Registration] = {}  # at the last look
        self._unmatched: AbstractSet[str] = frozenset()  # thresholds of the settings
        self._missing: Dict[str, float] = {}  # since when, monotonic seconds
        self._changes: List[threading.Thread] = []
        self._thresholds = Thresholds(decisions)
        self._deciding = threading.Lock()  # of the thresholds and the models' registrations

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

    def set_threshold(self, name: str, threshold: float, by: str) -> ModelInfo:
        """Judge by `threshold` from the next batch on, and after a restart; `by`: who wants it.

        Raises InvalidRequest, ModelNotFound, WrongModelState when another package is about to
        serve, AgentUnavailable when the threshold can't be kept.
        """
        model = self.find(name)
        if not 0.0 <= threshold <= 1.0:
            raise InvalidRequest(f"The threshold is {threshold:g}; it must lie between 0 and 1.")
        with self._deciding:
            decided = replace(model.registration, threshold=threshold, decided_by=by)
            model.check_decision(decided)
            self._thresholds.keep(decided, threshold, by)
            model.registration = decided
        model.follow()
        log.info("Model %s has threshold %g, set by %s.", name, threshold, by)
        return model.info()

    def sync(self, registrations: Mapping[str, Registration]) -> None:
        """Make the models those of `registrations`; work that takes time goes on afterwards.

        A model goes when it is missing again after `models.remove_after_s`: between the old version
        of a component and the new one there is a moment without any.
        """
        now, known_since = time.monotonic(), self._missing
        self._missing = {
            name: known_since.get(name, now) for name in self._models if name not in registrations
        }
        for name in known_since.keys() & self._missing.keys():
            if now - self._missing[name] < self._settings[0].remove_after_s:
                continue
            log.info("Model %s was removed.", name)
            self._later(self._models[name].retire)
            self._models = {key: model for key, model in self._models.items() if key != name}
            self._on_gone(name)
        self._deployed = registrations
        for registration in registrations.values():
            if self._register(registration):
                self._later(self._models[registration.name].follow)
        self._warn_of_unmatched()

    def follow(self, models: ModelsSettings, engine: EngineSettings) -> None:
        """Go by other settings; running models follow without being loaded anew."""
        if (models, engine) == self._settings:
            return
        self._settings = (models, engine)
        for model in self._models.values():
            model.adjust(models, engine)
        for registration in self._deployed.values():
            self._register(registration)
        for model in self._models.values():
            self._later(model.follow)
        self._warn_of_unmatched()

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

    def _register(self, deployed: Registration) -> bool:
        """Put the registration into force; True when a known model has to follow it."""
        with self._deciding:
            registration = self._thresholds.over(configured(deployed, self._settings[0]))
            known = self._models.get(registration.name)
            if known is None:
                self._add(registration)
                return False
            before = known.registration
            if before == registration:
                return False
            known.registration = registration
            state = known.info().state
            begins = state is ModelState.STOPPED and not before.autostart
            if registration.autostart and (begins or state is ModelState.FAILED):
                self._start(known)
            return True

    def _add(self, registration: Registration) -> None:
        model = ServedModel(registration, *self._settings, self._supply, self._on_change)
        self._models = {**self._models, registration.name: model}
        self._on_change(model.info())
        log.info("Model %s is deployed from %s.", registration.name, registration.package)
        if registration.autostart:
            self._start(model)

    def _start(self, model: ServedModel) -> None:
        try:
            model.start()
        except EdgeAgentError as error:
            log.error("Model %s can't start by itself: %s", model.name, error)  # noqa: TRY400

    def _warn_of_unmatched(self) -> None:
        """Warn once of each threshold of the settings whose model isn't deployed."""
        unmatched = self._settings[0].thresholds.keys() - self._models.keys()
        for name in sorted(unmatched - self._unmatched):
            log.warning(
                "models.thresholds names %r, which isn't deployed; it waits until it is. "
                "Deployed models: %s.", name, ", ".join(sorted(self._models)) or "none",
            )  # fmt: skip
        self._unmatched = unmatched

    def _later(self, change: Callable[[], object]) -> None:
        self._changes = [thread for thread in self._changes if thread.is_alive()]
        self._changes.append(in_background(change))
