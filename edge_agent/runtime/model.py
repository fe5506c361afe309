"""One served model: its life as a table, looking after its units, and changing it over.

Its methods may be called on any thread.
"""

from __future__ import annotations

import enum
import logging
import threading
import time
from dataclasses import replace
from functools import partial
from typing import Callable, Dict, Optional, Tuple

from edge_agent.config import EngineSettings, ModelsSettings
from edge_agent.errors import EdgeAgentError, InvalidPackage, ModelError, WrongModelState
from edge_agent.manifest import MODEL_FILE
from edge_agent.runtime import memory
from edge_agent.runtime.batching.batcher import Retired
from edge_agent.runtime.loaded import Loaded, load
from edge_agent.runtime.store import Registration
from edge_agent.types import ModelInfo, ModelState

log = logging.getLogger(__name__)
THREAD_NAME = "model"


class Event(enum.Enum):
    """What can happen to a model."""

    START = "start"
    LOADED = "loaded"
    LOAD_FAILED = "load failed"
    STOP = "stop"
    FREED = "freed"


# The only moves there are; anything else is refused with the state it was met in.
TRANSITIONS: Dict[Tuple[ModelState, Event], ModelState] = {
    (ModelState.STOPPED, Event.START): ModelState.STARTING,
    (ModelState.FAILED, Event.START): ModelState.STARTING,
    (ModelState.STARTING, Event.LOADED): ModelState.RUNNING,
    (ModelState.STARTING, Event.LOAD_FAILED): ModelState.FAILED,
    (ModelState.RUNNING, Event.STOP): ModelState.STOPPING,
    (ModelState.STOPPING, Event.FREED): ModelState.STOPPED,
}


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
            self._check_memory()
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

        A decision holds from the next batch on; another package serves when it is warm; units come
        and go with the next looks.
        """
        with self._changing_over:
            target, old = self.registration, self._loaded
            if old is None:
                return
            old.limit_units(self._engine)
            if target.is_same_package(old.registration):
                self._decide(target, old)
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
            self._check_memory()
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
        try:
            loaded = self._open(self.registration)
        except Exception as error:
            if not isinstance(error, EdgeAgentError):
                log.exception("Model %s can't be loaded.", self.name)
            with self._lock:
                self._move(Event.LOAD_FAILED, _sentence(error))
            return
        with self._lock:
            self._loaded = loaded
            self._move(Event.LOADED, loaded.summary)
        self.follow()  # the registration may have changed since

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
        """Load `target` beside the one that serves, then let that one go."""
        try:
            new = self._open(target)
        except Exception as error:
            ours = isinstance(error, EdgeAgentError)
            log.error(  # noqa: TRY400 - a refused package is no fault of the agent
                "Model %s keeps its version; the new one can't load: %s",
                self.name, error, exc_info=not ours,
            )  # fmt: skip
            with self._lock:
                self._message = f"{old.summary} A newer package was refused: {_sentence(error)}"
            return
        surplus = new
        with self._lock:
            if self._loaded is old:
                self._loaded, surplus = new, old
                self._message = new.summary
                log.info("Model %s changed over. %s", self.name, new.summary)
        surplus.close(self._models.drain_within_s)

    def _open(self, registration: Registration) -> Loaded:
        return load(registration, self._engine, self._models.package_limit_mib * memory.MIB)

    def _check_memory(self) -> None:
        try:
            files = self.registration.open().manifest.files
        except ModelError:
            return  # loading will say what is wrong with it
        size = next(entry.size for entry in files if entry.path == MODEL_FILE)
        memory.check(self.name, size, self._models.memory_limit_mib)

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
