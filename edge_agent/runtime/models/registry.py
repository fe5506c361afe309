"""Name → served model. Registrations come and go while the agent runs.

One thread calls `sync`, `use_settings`, `supervise` and `close`; any thread may do the rest.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import AbstractSet, Callable, Dict, List, Mapping, Optional

from edge_agent.config import EngineSettings, ModelsSettings
from edge_agent.errors import InvalidRequest, ModelNotFound
from edge_agent.runtime.engines.supply import EngineSupply
from edge_agent.runtime.models.running_models import RunningModels
from edge_agent.runtime.models.served_model import ServedModel
from edge_agent.runtime.models.thresholds import ThresholdOverrides, with_settings
from edge_agent.runtime.packages.registration import Registration
from edge_agent.types import ModelInfo

log = logging.getLogger(__name__)


class Registry:
    """Owns the served models; `on_change` gets every change of state, `on_gone` every removal.

    `decisions`: where thresholds set at run time are stored, `running`: which models are to run;
    None: only until the process ends.
    """

    def __init__(
        self,
        models: ModelsSettings,
        engine: EngineSettings,
        on_change: Callable[[ModelInfo], None] = lambda info: None,
        on_gone: Callable[[str], None] = lambda name: None,
        decisions: Optional[Path] = None,
        running: Optional[Path] = None,
    ) -> None:
        self._settings = (models, engine)
        self._supply = EngineSupply(engine)
        self._publish, self._on_gone = on_change, on_gone
        self._running = RunningModels(running)
        self._models: Dict[str, ServedModel] = {}  # replaced as a whole, never changed
        self._deployed: Mapping[str, Registration] = {}  # at the last `sync`
        self._unmatched: AbstractSet[str] = frozenset()  # thresholds of the settings
        self._retired: List[ServedModel] = []
        self._thresholds = ThresholdOverrides(decisions)
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

    def package_faults(self) -> Dict[str, Path]:
        """Return the packages that couldn't be loaded, by model."""
        found = {name: model.package_fault() for name, model in self._models.items()}
        return {name: path for name, path in found.items() if path is not None}

    def set_threshold(self, name: str, threshold: float, by: str) -> ModelInfo:
        """Judge by `threshold` from the next batch on, and after a restart; `by`: who sets it.

        Raises InvalidRequest, ModelNotFound, WrongModelState when another package is about to
        serve, AgentUnavailable when the threshold can't be stored.
        """
        model = self.find(name)
        if not 0.0 <= threshold <= 1.0:
            raise InvalidRequest(f"The threshold is {threshold:g}; it must lie between 0 and 1.")
        with self._deciding:
            decided = replace(model.registration, threshold=threshold, decided_by=by)
            model.check_decision(decided)
            self._thresholds.store(decided, threshold, by)
            model.decide(decided)
        log.info("Model %s has threshold %g, set by %s.", name, threshold, by)
        return model.info()

    def sync(self, registrations: Mapping[str, Registration]) -> None:
        """Make the models those of `registrations`; work that takes time goes on afterwards."""
        for name in self._models.keys() - registrations.keys():
            log.info("Model %s was removed.", name)
            self._retire(self._models[name])
            self._models = {key: model for key, model in self._models.items() if key != name}
            self._on_gone(name)
        self._deployed = registrations
        for registration in registrations.values():
            self._register(registration)
        self._warn_of_unmatched()
        self._running.store(self._models.keys())

    def use_settings(self, models: ModelsSettings, engine: EngineSettings) -> None:
        """Put other settings into force; running models apply them without being loaded again."""
        if (models, engine) == self._settings:
            return
        self._settings = (models, engine)
        for model in self._models.values():
            model.use_settings(models, engine)
        for registration in self._deployed.values():
            self._register(registration)
        self._warn_of_unmatched()

    def supervise(self) -> None:
        """Supervise every model's inference units and engine."""
        for model in self._models.values():
            model.supervise()

    def close(self, within_s: float) -> None:
        """Retire every model; one that takes longer than `within_s` is left behind."""
        end = time.monotonic() + within_s
        for model in self._models.values():
            self._retire(model)
        self._running.store(self._models.keys())
        self._models = {}
        for model in self._retired:
            model.join(max(0.0, end - time.monotonic()))

    def _register(self, deployed: Registration) -> None:
        with self._deciding:
            registration = self._thresholds.apply(with_settings(deployed, self._settings[0]))
            known = self._models.get(registration.name)
            if known is None:
                self._add(registration)
            elif (known.registration, known.registration.note) != (registration, registration.note):
                known.register(registration)

    def _add(self, registration: Registration) -> None:
        model = ServedModel(registration, *self._settings, self._supply, self._on_change)
        self._models = {**self._models, registration.name: model}
        self._on_change(model.info())
        log.info("Model %s is deployed from %s.", registration.name, registration.package)
        if registration.autostart:
            model.autostart()
        elif registration.name in self._running:
            model.resume()

    def _on_change(self, info: ModelInfo) -> None:
        self._running.note(info)
        self._publish(info)

    def _retire(self, model: ServedModel) -> None:
        model.retire()
        self._retired = [*(each for each in self._retired if not each.join(0.0)), model]

    def _warn_of_unmatched(self) -> None:
        """Warn once of each threshold of the settings whose model isn't deployed."""
        unmatched = self._settings[0].thresholds.keys() - self._models.keys()
        for name in sorted(unmatched - self._unmatched):
            log.warning(
                "models.thresholds names %r, which isn't deployed. The threshold waits for it. "
                "Deployed models: %s.", name, ", ".join(sorted(self._models)) or "none",
            )  # fmt: skip
        self._unmatched = unmatched
