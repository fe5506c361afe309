"""The state of a served model: all transitions as one table, and what is reported about it."""

from __future__ import annotations

import enum
import logging
import threading
from dataclasses import dataclass, replace
from typing import Callable, Dict, Optional, Tuple

from edge_agent.errors import EdgeAgentError, WrongModelState
from edge_agent.runtime.models.loaded_model import LoadedModel
from edge_agent.runtime.packages.registration import Registration
from edge_agent.types import BuildState, ModelInfo, ModelState

log = logging.getLogger(__name__)


class ModelEvent(enum.Enum):
    """What can happen to a model."""

    START = "start"
    LOADED = "loaded"
    LOAD_FAILED = "load failed"
    STOP = "stop"
    FREED = "freed"


# The only transitions there are; anything else is refused, naming the present state.
TRANSITIONS: Dict[Tuple[ModelState, ModelEvent], ModelState] = {
    (ModelState.STOPPED, ModelEvent.START): ModelState.STARTING,
    (ModelState.FAILED, ModelEvent.START): ModelState.STARTING,
    (ModelState.STARTING, ModelEvent.LOADED): ModelState.RUNNING,
    (ModelState.STARTING, ModelEvent.LOAD_FAILED): ModelState.FAILED,
    (ModelState.RUNNING, ModelEvent.STOP): ModelState.STOPPING,
    (ModelState.STOPPING, ModelEvent.FREED): ModelState.STOPPED,
}


@dataclass(frozen=True)
class _Snapshot:
    state: ModelState = ModelState.STOPPED
    message: str = ""
    loaded: Optional[LoadedModel] = None  # answers frames; None unless RUNNING
    build: Optional[BuildState] = None


class ModelStateMachine:
    """One model's state. One thread changes it, any thread reads it; `on_change` gets each change.

    `registered` returns the registration in force, of which clients are informed.
    """

    def __init__(
        self,
        name: str,
        registered: Callable[[], Registration],
        on_change: Callable[[ModelInfo], None],
    ) -> None:
        self.name, self._registered = name, registered
        self._on_change = on_change
        self._publishing = threading.RLock()
        self._now = _Snapshot()  # replaced as a whole
        self._published: Optional[ModelInfo] = None

    @property
    def state(self) -> ModelState:
        """The state at present."""
        return self._now.state

    @property
    def message(self) -> str:
        """What was last said of the state, for people."""
        return self._now.message

    @property
    def loaded(self) -> Optional[LoadedModel]:
        """What answers frames; None unless RUNNING."""
        return self._now.loaded

    def info(self) -> ModelInfo:
        """Return what Describe returns."""
        now, registered = self._now, self._registered()
        message = " ".join(filter(None, (now.message, registered.note)))
        info = ModelInfo(self.name, now.state, message, registered.arn, build=now.build)
        if now.loaded is None:
            return info
        units, limits = now.loaded.batcher.instances, now.loaded.scaler.limits
        return replace(
            info,
            engine=now.loaded.selected.engine,
            inference_units=units,
            desired_units=max(limits.minimum, units + now.loaded.is_adding_unit),
            least_units=limits.minimum,
            most_units=limits.maximum,
        )

    def current(self, verb: str = "used") -> LoadedModel:
        """Return what answers frames. Raises WrongModelState unless RUNNING."""
        loaded = self._now.loaded
        if loaded is None:
            raise self._refusal(verb)
        return loaded

    def check_start(self) -> None:
        """Raise WrongModelState unless the model may be started."""
        if (self.state, ModelEvent.START) not in TRANSITIONS:
            raise self._refusal("started")

    def move(self, event: ModelEvent, message: str, loaded: Optional[LoadedModel] = None) -> None:
        """Go to the next state; `loaded` answers frames from then on."""
        state = TRANSITIONS[self.state, event]
        level = logging.ERROR if state is ModelState.FAILED else logging.INFO
        log.log(level, "Model %s is %s. %s", self.name, state.name, message)
        self._now = _Snapshot(state, message, loaded)
        self._publish(self.info())

    def replace_loaded(self, new: LoadedModel) -> None:
        """Let `new` answer frames from now on."""
        log.info("Model %s now serves another version or engine. %s", self.name, new.summary)
        self._now = replace(self._now, message=new.summary, loaded=new, build=None)

    def report(self, message: str, build: Optional[BuildState]) -> None:
        """Set the message for people, and how far an engine is built; publish what changed."""
        self._now = replace(self._now, message=message, build=build)
        info = self.info()
        if info != self._published:
            self._publish(info)

    def stop_publishing(self) -> None:
        """Report nothing any more; nothing is under way when this returns."""
        with self._publishing:
            self._on_change = lambda _info: None

    def _publish(self, info: ModelInfo) -> None:
        self._published = info
        with self._publishing:
            self._on_change(info)

    def _refusal(self, verb: str) -> WrongModelState:
        return WrongModelState(
            f"Model {self.name!r} can't be {verb} now. The model is {self.state.name}."
        )


def reason(error: BaseException) -> str:
    """Return the sentence that people get; an unexpected error is in the log."""
    if isinstance(error, EdgeAgentError):
        return str(error)
    return f"Unexpected {type(error).__name__}; see the log."


def log_failure(words: str, model: str, error: BaseException) -> None:
    """Log what failed; an error that nobody expected with its traceback."""
    unexpected = None if isinstance(error, EdgeAgentError) else error
    log.warning(words, model, error, exc_info=unexpected)
