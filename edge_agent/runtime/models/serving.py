"""What serves a model at present, and what is told of it: state, message, inference units."""

from __future__ import annotations

import logging
import threading
from dataclasses import replace
from typing import Callable, Optional

from edge_agent.errors import WrongModelState
from edge_agent.runtime.models.life import TRANSITIONS, Event
from edge_agent.runtime.models.loaded_model import Loaded
from edge_agent.types import BuildState, ModelInfo, ModelState

log = logging.getLogger(__name__)


class Serving:
    """One model's state, guarded by one lock; `on_change` hears of every change, in order."""

    def __init__(
        self, name: str, arn: Callable[[], str], on_change: Callable[[ModelInfo], None]
    ) -> None:
        self.name, self._arn = name, arn
        self._on_change = on_change
        self._lock = threading.RLock()
        self._state, self._message = ModelState.STOPPED, ""
        self._loaded: Optional[Loaded] = None
        self._build: Optional[BuildState] = None

    @property
    def loaded(self) -> Optional[Loaded]:
        """What answers frames; None unless RUNNING."""
        return self._loaded

    def info(self) -> ModelInfo:
        """Return what Describe tells."""
        with self._lock:
            loaded = self._loaded
            info = ModelInfo(self.name, self._state, self._message, self._arn(), build=self._build)
            if loaded is None:
                return info
            units, limits = loaded.batcher.instances, loaded.scaler.limits
            return replace(
                info,
                engine=loaded.opened.engine,
                inference_units=units,
                desired_units=max(limits.minimum, units + loaded.growing.locked()),
                least_units=limits.minimum,
                most_units=limits.maximum,
            )

    def begin(self, check: Callable[[], None], go: Callable[[], None]) -> ModelInfo:
        """Be STARTING from now on, unless `check` raises, and `go`. Raises WrongModelState."""
        with self._lock:
            if (self._state, Event.START) not in TRANSITIONS:
                raise self._refusal("started")
            check()
            self._move(Event.START, "Loading.")
            go()
            return self.info()

    def running(self, loaded: Loaded) -> None:
        """Be RUNNING from now on."""
        with self._lock:
            self._loaded = loaded
            self._move(Event.LOADED, loaded.summary)

    def failed(self, why: str, is_last_word: Callable[[], bool]) -> bool:
        """Be FAILED from now on, if that is the last word; return whether it is."""
        with self._lock:
            if is_last_word():
                self._move(Event.LOAD_FAILED, why)
                return True
            return False

    def stopping(self) -> Loaded:
        """Return what served, which takes no new calls now. Raises WrongModelState."""
        with self._lock:
            loaded = self.current("stopped")
            self._loaded = None
            self._move(Event.STOP, "Waiting for calls in flight.")
            return loaded

    def stopped(self) -> ModelInfo:
        """Be STOPPED from now on."""
        with self._lock:
            self._move(Event.FREED, "")
            return self.info()

    def current(self, verb: str = "used") -> Loaded:
        """Return what answers frames. Raises WrongModelState unless RUNNING."""
        loaded = self._loaded
        if loaded is None:
            raise self._refusal(verb)
        return loaded

    def tell(
        self, loaded: Optional[Loaded], message: str, build: Optional[BuildState] = None
    ) -> None:
        """Say something new of what serves, None for a start; `build`: of an engine for it."""
        with self._lock:
            if self._loaded is loaded:
                self._message, self._build = message, build
                self._on_change(self.info())

    def replace(self, old: Loaded, new: Loaded) -> bool:
        """Let `new` answer instead of `old`; False when something else does by now."""
        with self._lock:
            if self._loaded is not old:
                return False
            self._loaded = new
            self.tell(new, new.summary)
            log.info("Model %s changed over. %s", self.name, new.summary)
            return True

    def forget_listener(self) -> None:
        """Let nobody hear of changes any more."""
        with self._lock:
            self._on_change = lambda _info: None

    def _refusal(self, verb: str) -> WrongModelState:
        return WrongModelState(
            f"Model {self.name!r} can't be {verb} now. The model is {self._state.name}."
        )

    def _move(self, event: Event, message: str) -> None:
        self._state = TRANSITIONS[self._state, event]
        self._message, self._build = message, None
        level = logging.ERROR if self._state is ModelState.FAILED else logging.INFO
        log.log(level, "Model %s is %s. %s", self.name, self._state.name, message)
        self._on_change(self.info())
