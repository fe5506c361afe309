"""One thread that handles events one after another, and the threads that do slow work for it."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue
from typing import Callable, Optional, TypeVar

log = logging.getLogger(__name__)

THREAD_NAME = "model"

T = TypeVar("T")
Respond = Callable[[], object]


class ThreadEnded(Exception):
    """The thread takes no more events."""


class EventThread:
    """Handles events, which are calls, in the order they came, and calls `reconcile` after each.

    `reconcile` returns in how many seconds it is to be called again; None: after the next event.
    Events must be quick; slow work is a job in a thread of its own.
    """

    def __init__(self, reconcile: Callable[[], Optional[float]]) -> None:
        self._reconcile = reconcile
        self._events: SimpleQueue[Callable[[], Respond]] = SimpleQueue()
        self._lock = threading.Lock()  # of the two below
        self._has_ended = False
        self._jobs = 0  # that will still post an event
        self._is_ending = False
        self._thread = in_background(self._run)

    def post(self, event: Callable[[], object]) -> None:
        """Have the event handled. Raises ThreadEnded."""
        self._put(partial(_run, event))

    def ask(self, event: Callable[[], T]) -> T:
        """Have the event handled; return or raise what it does, after `reconcile`.

        Raises ThreadEnded.
        """
        answer: Future[T] = Future()
        self._put(partial(_answer, event, answer))
        return answer.result()

    def start_job(self, work: Callable[[], T], then: Callable[[Future[T]], object]) -> None:
        """Run `work` in a thread of its own; `then` is an event and gets the outcome."""
        with self._lock:
            self._jobs += 1
        try:
            in_background(partial(self._do, work, then))
        except RuntimeError as error:  # the system has no more threads
            outcome: Future[T] = Future()
            outcome.set_exception(error)
            self.post(partial(self._finish, then, outcome))

    def end(self) -> None:
        """Take no more events once all jobs have ended; called by an event."""
        self._is_ending = True

    def join(self, within_s: float) -> bool:
        """Wait until it has ended; return whether it has."""
        self._thread.join(within_s)
        return not self._thread.is_alive()

    def _put(self, event: Callable[[], Respond]) -> None:
        with self._lock:
            if self._has_ended:
                raise ThreadEnded
            self._events.put(event)

    def _run(self) -> None:
        wait_s: Optional[float] = None
        while not self._is_over():
            respond: Respond = _nothing
            with suppress(Empty):  # then it is time to reconcile again
                respond = self._events.get(timeout=wait_s)()
            wait_s = self._reconciled()
            respond()

    def _is_over(self) -> bool:
        with self._lock:
            self._has_ended = self._is_ending and not self._jobs and self._events.empty()
            return self._has_ended

    def _reconciled(self) -> Optional[float]:
        try:
            return self._reconcile()
        except Exception:
            log.exception("A model could not be reconciled; trying again with its next event.")
            return None

    def _do(self, work: Callable[[], T], then: Callable[[Future[T]], object]) -> None:
        outcome: Future[T] = Future()
        _answer(work, outcome)()
        finish = partial(self._finish, then, outcome)
        del work, outcome  # see `_answer`
        self.post(finish)
        del finish

    def _finish(self, then: Callable[[Future[T]], object], outcome: Future[T]) -> None:
        with self._lock:
            self._jobs -= 1
        then(outcome)


def in_background(work: Callable[[], object]) -> threading.Thread:
    """Run `work` in a daemon thread of its own, which never holds up the process's end."""
    thread = threading.Thread(target=work, name=THREAD_NAME, daemon=True)
    thread.start()
    return thread


def _answer(work: Callable[[], T], answer: Future[T]) -> Respond:
    """Do it; return what gives the outcome to `answer`."""
    try:
        return partial(answer.set_result, work())
    except Exception as error:
        return partial(answer.set_exception, error)
    finally:
        # An error keeps the frames it came through: one with its own future would never be freed.
        del work, answer


def _run(event: Callable[[], object]) -> Respond:
    try:
        event()
    except Exception:
        log.exception("An event of a model could not be handled.")
    return _nothing


def _nothing() -> None:
    """Respond to nobody."""
