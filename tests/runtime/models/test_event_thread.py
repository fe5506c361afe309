from __future__ import annotations

import gc
import threading
import time
import weakref
from concurrent.futures import Future
from typing import List, Optional

import pytest

from edge_agent.runtime.models import event_thread
from edge_agent.runtime.models.event_thread import EventThread, ThreadEnded

WITHIN_S = 30.0


class Reconciler:
    """Counts; returns what `again_in_s` says, once."""

    def __init__(self, again_in_s: Optional[float] = None) -> None:
        self.count, self.again_in_s = 0, again_in_s
        self.is_done_twice = threading.Event()

    def __call__(self) -> Optional[float]:
        self.count += 1
        if self.count == 2:
            self.is_done_twice.set()
        again_in_s, self.again_in_s = self.again_in_s, None
        return again_in_s


class Held:
    """Something large."""


def test_events_are_handled_in_order_and_answered_after_reconciling() -> None:
    reconciler, seen = Reconciler(), []  # type: Reconciler, List[int]
    events = EventThread(reconciler)
    for number in range(5):
        events.post(lambda value=number: seen.append(value))
    assert events.ask(lambda: reconciler.count) == 5
    assert (seen, reconciler.count) == ([0, 1, 2, 3, 4], 6)
    events.ask(events.end)


def test_reconciling_is_repeated_when_it_asks_for_it() -> None:
    reconciler = Reconciler(again_in_s=0.01)
    events = EventThread(reconciler)
    events.post(lambda: None)
    assert reconciler.is_done_twice.wait(WITHIN_S)
    events.ask(events.end)


def test_an_error_goes_to_who_asked_or_into_the_log_and_the_thread_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    events = EventThread(Reconciler())
    with pytest.raises(ZeroDivisionError):
        events.ask(lambda: 1 / 0)
    events.post(lambda: 1 / 0)
    assert events.ask(lambda: 7) == 7
    assert "An event of a model could not be handled." in caplog.text
    events.ask(events.end)


def test_an_error_while_reconciling_is_logged_and_the_thread_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    events = EventThread(lambda: 1 / 0)
    assert events.ask(lambda: 7) == 7
    assert "A model could not be reconciled" in caplog.text
    events.ask(events.end)


def test_it_ends_when_its_jobs_have_and_takes_no_event_afterwards() -> None:
    events, go = EventThread(Reconciler()), threading.Event()
    outcomes: List[Future[bool]] = []
    events.ask(lambda: events.start_job(lambda: go.wait(WITHIN_S), outcomes.append))
    events.ask(events.end)
    assert not events.join(0.05)
    assert events.ask(lambda: 7) == 7
    go.set()
    assert events.join(WITHIN_S)
    assert [each.result() for each in outcomes] == [True]
    with pytest.raises(ThreadEnded):
        events.ask(lambda: 7)


def test_what_a_failed_job_held_is_freed_at_once() -> None:
    held: List[weakref.ref[Held]] = []

    def fail() -> None:
        large = Held()
        held.append(weakref.ref(large))
        raise ValueError("no")

    events = EventThread(lambda: None)
    done = threading.Event()
    gc.disable()
    try:
        events.start_job(fail, lambda outcome: done.set() if outcome.exception() else None)
        assert done.wait(WITHIN_S)
        end = time.monotonic() + WITHIN_S
        while held[0]() is not None:
            assert time.monotonic() < end
            events.ask(lambda: None)
    finally:
        gc.enable()
        events.post(events.end)
    assert events.join(WITHIN_S)


def test_a_job_without_a_thread_for_it_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(_work: object) -> None:
        raise RuntimeError("can't start new thread")

    events = EventThread(lambda: None)
    outcomes: List[BaseException] = []
    monkeypatch.setattr(event_thread, "in_background", none_left)
    events.start_job(lambda: None, lambda outcome: outcomes.append(outcome.exception()))
    events.post(events.end)

    assert events.join(WITHIN_S)
    assert "can't start new thread" in str(outcomes[0])
