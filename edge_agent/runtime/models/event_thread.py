"""One thread that handles events one after another, and the threads that work for it."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import Future
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, Callable, Optional, Tuple, TypeVar

log = logging.getLogger(__name__)

THREAD_NAME = "model"

T = TypeVar("T")
Event = Callable[[], object]


class Ended(Exception):
    """The thread takes no more events."""


class EventThread:
    """Handles events, which are calls, in the order they came, and calls `reconcile` after each.

    `reconcile` returns in how many seconds it is to be called again; None: after the next event.
    Events must be quick; slow work goes into `run_aside`.
    """

    def __init__(self, reconcile: Callable[[], Optional[float]]) -> None:
        self._reconcile = reconcile
        self._events: SimpleQueue[Tuple[Event, Optional[Future[Any]]]] = SimpleQueue()
        self._lock = threading.Lock()  # of the two below
        self._has_ended = False
        self._aside = 0  # threads that will still post an event
        self._is_ending = False
        self._thread = in_background(self._run)

    def post(self, event: Event, answer: Optional[Future[Any]] = None) -> None:
        """Have the event handled; `answer` gets what comes of it. Raises Ended."""
        with self._lock:
            if self._has_ended:
                raise Ended
            self._events.put((event, answer))

    def ask(self, event: Callable[[], T]) -> T:
        """Have the event handled; return or raise what it does, after `reconcile`. Raises Ended."""
        answer: Future[T] = Future()
        self.post(event, answer)
        return answer.result()

    def run_aside(self, work: Callable[[], T], then: Callable[[Future[T]], object]) -> None:
        """Run slow `work` in a thread of its own; `then` is an event and gets what came of it."""
        with self._lock:
            self._aside += 1
        in_background(partial(self._work_aside, work, then))

    def end(self) -> None:
        """Take no more events when the threads aside have ended; called by an event."""
        self._is_ending = True

    def join(self, within_s: float) -> bool:
        """Wait until it has ended; return whether it has."""
        self._thread.join(within_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        wait_s: Optional[float] = None
        while not self._is_over():
            respond = self._handle_next(wait_s)
            wait_s = self._reconciled()
            respond()

    def _is_over(self) -> bool:
        with self._lock:
            self._has_ended = self._is_ending and not self._aside and self._events.empty()
            return self._has_ended

    def _handle_next(self, wait_s: Optional[float]) -> Callable[[], object]:
        """Handle an event, if one comes in time; return what answers it."""
        try:
            event, answer = self._events.get(timeout=wait_s)
        except Empty:
            return _nothing
        try:
            result = event()
        except Exception as error:
            if answer is not None:
                return partial(answer.set_exception, error)
            log.exception("An event of a model could not be handled.")
            return _nothing
        return partial(answer.set_result, result) if answer is not None else _nothing

    def _reconciled(self) -> Optional[float]:
        try:
            return self._reconcile()
        except Exception:
            log.exception("A model could not be reconciled; trying again with its next event.")
            return None

    def _work_aside(self, work: Callable[[], T], then: Callable[[Future[T]], object]) -> None:
        outcome: Future[T] = Future()
        try:
            outcome.set_result(work())
        except Exception as error:
            outcome.set_exception(error)
        self.post(partial(self._finish_aside, then, outcome))

    def _finish_aside(self, then: Callable[[Future[T]], object], outcome: Future[T]) -> None:
        with self._lock:
            self._aside -= 1
        then(outcome)


def _nothing() -> None:
    """Answer nobody."""


def in_background(work: Callable[[], object]) -> threading.Thread:
    """Run `work` in a daemon thread of its own, which never holds up the process's end."""
    thread = threading.Thread(target=work, name=THREAD_NAME, daemon=True)
    thread.start()
    return thread
