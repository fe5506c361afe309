"""One served model: starting and stopping it, looking after its units, and changing it over.

Its methods may be called on any thread.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import replace
from functools import partial
from typing import Callable, Optional

from edge_agent.config import EngineSettings, ModelsSettings
from edge_agent.errors import EdgeAgentError, InvalidPackage, WrongModelState
from edge_agent.runtime.batching.batcher import Retired
from edge_agent.runtime.by_settings import check_memory, configured, open_loaded
from edge_agent.runtime.life import TRANSITIONS, Event
from edge_agent.runtime.loaded import Loaded
from edge_agent.runtime.store import Registration
from edge_agent.types import ModelInfo, ModelState

log = logging.getLogger(__name__)
THREAD_NAME = "model"


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
        on_change: Callable[[ModelInfo], None],
    ) -> None:
        self.registration = registration
        self._models, self._engine = models, engine
        self._on_change = on_change
        self._lock = threading.Lock()  # of the three below
        self._state, self._message = ModelState.STOPPED, ""
        self._loaded: Optional[Loaded] = None
        self._loading = threading.Thread()
        self._tried: Optional[Registration] = None  # the package loaded last to change over
        self._refusal_of_it = ""
        self._changing_over, self._growing = threading.Lock(), threading.Lock()

    @property
    def name(self) -> str:
        """The name clients call it by."""
        return self.registration.name

    def info(self) -> ModelInfo:
        """Return what Describe tells."""
        with self._lock:
            return self._info()

    def serving(self) -> Loaded:
        """Return the version that answers frames. Raises WrongModelState unless RUNNING."""
        with self._lock:
            return self._serving("used")

    def start(self) -> ModelInfo:
        """Begin to load and return at once. Raises WrongModelState, OutOfMemory."""
        with self._lock:
            if (self._state, Event.START) not in TRANSITIONS:
                raise self._refusal("started")
            check_memory(self.registration, self._models)
            self._move(Event.START, "Loading.")
            self._loading = in_background(self._load)
            return self._info()

    def stop(self) -> ModelInfo:
        """Refuse new calls, finish those in flight, free. Raises WrongModelState unless RUNNING."""
        with self._lock:
            loaded = self._serving("stopped")
            self._loaded = None
            self._move(Event.STOP, "Waiting for calls in flight.")
        if not loaded.close(self._models.drain_within_s):
            log.warning("Model %s was stopped with calls in flight.", self.name)
        with self._lock:
            self._move(Event.FREED, "")
            return self._info()

    def retire(self) -> None:
        """Let go of the model whatever it is doing; nobody hears of its changes any more."""
        with self._lock:
            self._on_change = lambda _info: None
            loading = self._loading
        if loading.ident is not None:
            loading.join()
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
        with self._changing_over:
            target, old = self.registration, self._loaded
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
        loaded = self._loaded
        if loaded is None:
            return
        if not registration.is_same_package(loaded.registration):
            raise WrongModelState(
                f"Model {self.name!r} is to change over to another package; decide when it has. "
                f"{self._message}"
            )
        registration.apply(loaded.packaged)

    def tend(self) -> None:
        """Give up inference units that hang; add and remove units as the load asks."""
        with self._lock:
            loaded = self._loaded
        if loaded is None:
            return
        hung = loaded.batcher.give_up_hung(self._engine.hang_after_s)
        if hung:
            log.error("%d engine calls of model %s hung; replacing their units.", hung, self.name)
            self._tell(loaded, f"{loaded.summary} An engine call hung; its unit is replaced.")
        change = loaded.scaler.decide(time.monotonic(), loaded.batcher.load())
        if change > 0 and self._growing.acquire(blocking=False):
            self._tell(loaded, loaded.summary)
            in_background(partial(self._grow, loaded))
        elif change < 0 and loaded.batcher.remove():
            log.info("Model %s has an inference unit fewer.", self.name)
            self._tell(loaded, loaded.summary)

    def _grow(self, loaded: Loaded) -> None:
        try:
            remark = self._add_unit(loaded)
        finally:
            self._growing.release()
        self._tell(loaded, f"{loaded.summary}{remark}")

    def _add_unit(self, loaded: Loaded) -> str:
        """Open one more unit; return what there is to remark about it."""
        try:
            check_memory(loaded.registration, self._models)
            loaded.batcher.add(loaded.open_unit())
        except Retired:
            return ""  # stopped or changed over meanwhile
        except Exception as error:
            log.error("Model %s gets no further inference unit: %s", self.name, error)  # noqa: TRY400
            return f" No further unit: {_sentence(error)}"
        log.info("Model %s has an inference unit more.", self.name)
        return ""

    def _tell(self, loaded: Loaded, message: str) -> None:
        with self._lock:
            if self._loaded is loaded:
                self._message = message
                self._on_change(self._info())

    def _load(self) -> None:
        """Load the registration in force, or the one that replaced it while it failed."""
        loaded: Optional[Loaded] = None
        while loaded is None:
            registration = self.registration
            try:
                check_memory(registration, self._models)
                loaded = open_loaded(registration, self._models, self._engine)
            except Exception as error:
                if self._has_failed(registration, error):
                    return
        with self._lock:
            self._loaded = loaded
            self._move(Event.LOADED, loaded.summary)
        self.follow()  # the registration may have changed since

    def _has_failed(self, registration: Registration, error: Exception) -> bool:
        """Note that the registration can't be loaded; False when another is in force by now."""
        if not isinstance(error, EdgeAgentError):
            log.exception("Model %s can't be loaded.", self.name)
        with self._lock:
            if registration != self.registration:
                log.warning("Model %s was replaced while it was loaded: %s", self.name, error)
                return False
            self._move(Event.LOAD_FAILED, _sentence(error))
            return True

    def _decide(self, target: Registration, loaded: Loaded) -> None:
        """Judge by another decision, without loading anything."""
        try:
            changes = loaded.decide(target)
        except InvalidPackage as error:
            log.error("Model %s keeps its decision: %s", self.name, error)  # noqa: TRY400
            self._tell(loaded, f"{loaded.summary} A changed decision was refused: {error}")
            return
        if changes:
            log.info("Model %s judges anew: %s, by %s.", self.name, changes, target.decided_by)
        self._tell(loaded, loaded.summary)

    def _change_over(self, target: Registration, old: Loaded) -> None:
        """Load `target` beside the one that serves, then let that one go.

        What can be mended without another package doesn't count as tried.
        """
        self._tried = None
        try:
            target.apply(target.open().manifest)
            check_memory(target, self._models)
            self._tried = target
            new = open_loaded(target, self._models, self._engine)
        except Exception as error:
            ours = isinstance(error, EdgeAgentError)
            log.error(  # noqa: TRY400 - a refused package is no fault of the agent
                "Model %s keeps its version; the new one can't load: %s",
                self.name, error, exc_info=not ours,
            )  # fmt: skip
            self._refusal_of_it = _sentence(error)
            self._stay(old)
            return
        surplus = new
        with self._lock:
            if self._loaded is old:
                self._loaded, surplus = new, old
                self._message = new.summary
                log.info("Model %s changed over. %s", self.name, new.summary)
        surplus.close(self._models.drain_within_s)

    def _stay(self, old: Loaded) -> None:
        """Serve on instead of a refused package; a threshold of the settings holds all the same."""
        decided = configured(old.registration, self._models)
        if decided is not old.registration:
            self._decide(decided, old)
        self._tell(old, f"{old.summary} A newer package was refused: {self._refusal_of_it}")

    def _info(self) -> ModelInfo:
        info = ModelInfo(self.name, self._state, self._message, self.registration.arn)
        if self._loaded is None:
            return info
        units, limits = self._loaded.batcher.instances, self._loaded.scaler.limits
        return replace(
            info,
            inference_units=units,
            desired_units=max(limits.minimum, units + self._growing.locked()),
            least_units=limits.minimum,
            most_units=limits.maximum,
        )

    def _serving(self, verb: str) -> Loaded:
        if self._loaded is None:
            raise self._refusal(verb)
        return self._loaded

    def _refusal(self, verb: str) -> WrongModelState:
        return WrongModelState(
            f"Model {self.name!r} can't be {verb} now. The model is {self._state.name}."
        )

    def _move(self, event: Event, message: str) -> None:
        self._state = TRANSITIONS[self._state, event]
        self._message = message
        level = logging.ERROR if self._state is ModelState.FAILED else logging.INFO
        log.log(level, "Model %s is %s. %s", self.name, self._state.name, message)
        self._on_change(self._info())


def _sentence(error: Exception) -> str:
    """Return what a person is told; an unexpected error is in the log."""
    if isinstance(error, EdgeAgentError):
        return str(error)
    return f"Unexpected {type(error).__name__}; see the log."


def in_background(work: Callable[[], object]) -> threading.Thread:
    """Run `work` in a daemon thread of its own, which never holds up the process's end."""
    thread = threading.Thread(target=work, name=THREAD_NAME, daemon=True)
    thread.start()
    return thread
