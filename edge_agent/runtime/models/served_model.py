"""One served model: starting and stopping it, and making it follow what is deployed.

Its methods may be called on any thread.
"""

from __future__ import annotations

import logging
import threading
from functools import partial
from typing import Callable, Optional

from edge_agent.config import EngineSettings, ModelsSettings
from edge_agent.errors import EdgeAgentError, InvalidPackage, NotBuilt, WrongModelState
from edge_agent.runtime.engines.supply import EngineSupply
from edge_agent.runtime.models.by_settings import check_memory, configured
from edge_agent.runtime.models.engine_upgrade import Upgrade
from edge_agent.runtime.models.loaded_model import Loaded, open_loaded
from edge_agent.runtime.models.serving import Serving
from edge_agent.runtime.models.unit_supervisor import UnitCare, in_background, sentence
from edge_agent.runtime.packages.deployments import Registration
from edge_agent.runtime.system import descriptors
from edge_agent.types import ModelInfo

log = logging.getLogger(__name__)


class ServedModel:
    """A deployed model and the state it is in; `on_change` hears of every change of state.

    `registration` is the one in force. Whoever replaces it, or calls `adjust`, calls `follow`
    afterwards.
    """

    def __init__(
        self,
        registration: Registration,
        models: ModelsSettings,
        engine: EngineSettings,
        supply: EngineSupply,
        on_change: Callable[[ModelInfo], None],
    ) -> None:
        self.registration = registration
        self._models, self._engine, self._supply = models, engine, supply
        self._serving = Serving(registration.name, lambda: self.registration.arn, on_change)
        self._loading = threading.Thread()
        self._is_retired = False
        self._tried: Optional[Registration] = None  # the package loaded last to change over
        self._refusal_of_it = ""
        self._changing_over = threading.Lock()
        self._care = UnitCare(registration.name, self._serving.tell)
        self._upgrade = Upgrade(self._serving, supply, self._open, self._upgraded)

    @property
    def name(self) -> str:
        """The name clients call it by."""
        return self.registration.name

    def info(self) -> ModelInfo:
        """Return what Describe tells."""
        return self._serving.info()

    def serving(self) -> Loaded:
        """Return the version that answers frames. Raises WrongModelState unless RUNNING."""
        return self._serving.current()

    def start(self) -> ModelInfo:
        """Begin to load and return at once. Raises WrongModelState, OutOfMemory."""
        return self._serving.begin(self._check_memory, self._begin_to_load)

    def stop(self) -> ModelInfo:
        """Refuse new calls, finish those in flight, free. Raises WrongModelState unless RUNNING."""
        loaded = self._serving.stopping()
        self._upgrade.prune()
        if not loaded.close(self._models.drain_within_s):
            log.warning("Model %s was stopped with calls in flight.", self.name)
        return self._serving.stopped()

    def retire(self) -> None:
        """Let go of the model whatever it is doing; nobody hears of its changes any more."""
        self._is_retired = True
        self._serving.forget_listener()
        self._upgrade.prune()
        if self._loading.ident is not None:
            self._loading.join()
        try:
            self.stop()
        except WrongModelState:
            return  # it does not run

    def adjust(self, models: ModelsSettings, engine: EngineSettings) -> None:
        """Go by other settings from now on."""
        self._models, self._engine = models, engine

    def follow(self) -> None:
        """Make what serves follow the registration and the settings in force.

        A decision holds from the next batch on; another package serves when it is warm, and isn't
        loaded again once it was refused; units come and go with the next looks.
        """
        self._upgrade.prune()
        with self._changing_over:
            target, old = self.registration, self._serving.loaded
            if old is None:
                return
            old.limit_units(self._engine)
            if target.is_same_package(old.registration):
                self._tried = target
                self._decide(target, old)
            elif self._tried and target.is_same_package(self._tried):
                self._stay(old)
            else:
                self._change_over(target, old)

    def check_decision(self, registration: Registration) -> None:
        """Raise WrongModelState or InvalidPackage when what serves couldn't follow at once."""
        loaded = self._serving.loaded
        if loaded is None:
            return
        if not registration.is_same_package(loaded.registration):
            raise WrongModelState(
                f"Model {self.name!r} is to change over to another package; decide when it has. "
                f"{self.info().message}"
            )
        registration.apply(loaded.packaged)

    def tend(self) -> None:
        """Look after the inference units; serve on without an engine that is beyond help."""
        loaded = self._serving.loaded
        if loaded is not None:
            self._care.look_after(loaded, self._models, self._engine)
            self._upgrade.abandon(loaded)

    def _check_memory(self) -> None:
        check_memory(self.registration, self._models)

    def _begin_to_load(self) -> None:
        self._loading = in_background(self._load)

    def _load(self) -> None:
        """Load the registration in force, or the one that replaced it while it failed."""
        loaded: Optional[Loaded] = None
        while loaded is None:
            registration = self.registration
            try:
                check_memory(registration, self._models)
                loaded = self._open_built(registration, None)
            except Exception as error:
                if self._has_failed(registration, error):
                    return
        self._serving.running(loaded)
        self._upgrade.begin(loaded)
        self.follow()  # the registration may have changed since

    def _open_built(self, registration: Registration, serving: Optional[Loaded]) -> Loaded:
        """Load while `serving` serves, after building the engine when nothing else is to serve."""
        while True:
            try:
                return self._open(registration)
            except NotBuilt as error:
                is_due = partial(self._is_due, registration, serving)
                self._upgrade.build(error.wanted, serving, is_due)

    def _is_due(self, registration: Registration, serving: Optional[Loaded]) -> bool:
        return (
            not self._is_retired
            and self._serving.loaded is serving
            and self.registration.is_same_package(registration)
        )

    def _open(
        self, registration: Registration, only: Optional[Callable[[str], bool]] = None
    ) -> Loaded:
        with descriptors.RESERVE.lent():
            loaded = open_loaded(registration, self._models, self._engine, self._supply, only)
        if only is not None and loaded.digest != registration.digest:
            loaded.close(0.0)
            raise InvalidPackage("The package was replaced meanwhile; the new one is loaded next.")
        return loaded

    def _has_failed(self, registration: Registration, error: Exception) -> bool:
        """Note that the registration can't be loaded; False when another is in force by now."""
        if not isinstance(error, EdgeAgentError):
            log.exception("Model %s can't be loaded.", self.name)
        if self._serving.failed(sentence(error), lambda: registration == self.registration):
            return True
        log.warning("Model %s was replaced while it was loaded: %s", self.name, error)
        return False

    def _decide(self, target: Registration, loaded: Loaded) -> None:
        """Judge by another decision, without loading anything."""
        try:
            changes = loaded.decide(target)
        except InvalidPackage as error:
            log.error("Model %s keeps its decision: %s", self.name, error)  # noqa: TRY400
            self._serving.tell(loaded, f"{loaded.summary} A changed decision was refused: {error}")
            return
        if changes:
            log.info("Model %s judges anew: %s, by %s.", self.name, changes, target.decided_by)
        self._serving.tell(loaded, loaded.summary)

    def _change_over(self, target: Registration, old: Loaded) -> None:
        """Load `target` beside the one that serves, then let that one go.

        What can be mended without another package doesn't count as tried.
        """
        self._tried = None
        try:
            target.apply(target.open().manifest)
            check_memory(target, self._models)
            self._tried = target
            new = self._open_built(target, old)
        except Exception as error:
            ours = isinstance(error, EdgeAgentError)
            log.error(  # noqa: TRY400 - a refused package is no fault of the agent
                "Model %s keeps its version; the new one can't load: %s",
                self.name, error, exc_info=not ours,
            )  # fmt: skip
            self._refusal_of_it = sentence(error)
            self._stay(old)
            return
        self._replace(old, new)

    def _stay(self, old: Loaded) -> None:
        """Serve on instead of a refused package; a threshold of the settings holds all the same."""
        decided = configured(old.registration, self._models)
        if decided is not old.registration:
            self._decide(decided, old)
        self._serving.tell(old, f"{old.summary} A newer package was refused: {self._refusal_of_it}")

    def _replace(self, old: Loaded, new: Loaded) -> None:
        """Let `new` serve in the place of `old`, and free the one that isn't needed."""
        surplus = new
        if self._serving.replace(old, new):
            surplus = old
            self._upgrade.prune()
            self._upgrade.begin(new)
        surplus.close(self._models.drain_within_s)

    def _upgraded(self, old: Loaded, new: Loaded) -> None:
        with self._changing_over:  # which would lose a package that is being loaded
            self._replace(old, new)
        self.follow()  # what was deployed may have changed meanwhile
