from __future__ import annotations

import logging
import threading
import time
from functools import partial
from queue import Empty, Queue
from typing import Callable, Iterator, List, Set

import pytest

from edge_agent.runtime.rpc import pollers
from edge_agent.runtime.rpc.pollers import Pollers


class Source:
    """Events that are jobs; what `Pollers` poll. Jobs count as work."""

    def __init__(self) -> None:
        self._before = set(threading.enumerate())
        self.jobs: Queue[Callable[[], None]] = Queue()
        self.pollers = Pollers(self._poll)
        self.pollers.start()

    def _poll(self, within_s: float) -> bool:
        try:
            job = self.jobs.get(timeout=within_s or 0.0001)
        except Empty:
            return False
        self.pollers.begin_work()
        try:
            job()
        finally:
            self.pollers.rest()
        return True

    @property
    def threads(self) -> Set[threading.Thread]:
        """Those of its own, the watchman among them."""
        own = set(threading.enumerate()) - self._before
        return {thread for thread in own if thread.name == pollers.THREAD_NAME}

    def do(self, job: Callable[[], None]) -> threading.Event:
        """Queue a job; the event is set when it is done."""
        done = threading.Event()

        def both() -> None:
            job()
            done.set()

        self.jobs.put(both)
        return done


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pollers, "WAIT_S", 0.02)
    monkeypatch.setattr(pollers, "REMEMBER_S", 0.3)


@pytest.fixture
def source() -> Iterator[Source]:
    source = Source()
    yield source
    source.pollers.end()
    for thread in source.threads:
        thread.join(10)
        assert not thread.is_alive()


def _until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_quiet_line_has_one_thread(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Pollers, "_look", _nothing)
    idents: Set[int] = set()
    for _ in range(50):
        assert source.do(lambda: idents.add(threading.get_ident())).wait(10)
    assert len(idents) == 1
    assert len(source.threads) == 2  # it and the watchman


@pytest.mark.parametrize("late_s", [0.0, 0.3])
def test_what_comes_while_it_is_at_work_is_noticed(
    source: Source, monkeypatch: pytest.MonkeyPatch, late_s: float
) -> None:
    """Nobody says how long a work lasts; an engine may hang."""
    monkeypatch.setattr(pollers, "WATCH_S", 0.02)
    gate = threading.Event()
    first = source.do(lambda: _passed(gate))
    time.sleep(late_s)
    assert source.do(lambda: None).wait(5)
    assert not first.is_set()
    gate.set()
    assert first.wait(10)


def test_what_comes_when_the_crowd_is_forgotten_is_noticed(
    source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pollers, "WATCH_S", 0.02)
    inside, gate = threading.Barrier(9), threading.Event()
    for _ in range(8):
        source.do(lambda: _met(inside))
    first = source.do(lambda: _passed(gate))
    _met(inside)
    _until(lambda: len(source.threads) == 2)
    assert source.do(lambda: None).wait(5)
    assert not first.is_set()
    gate.set()
    assert first.wait(10)


def test_after_a_burst_few_wait(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pollers, "REMEMBER_S", 60.0)
    inside = threading.Barrier(41)
    for _ in range(40):
        source.do(lambda: _met(inside))
    _met(inside)
    _until(lambda: len(source.threads) == pollers.SPARES + 1)


def test_when_no_thread_is_to_be_had_the_watchman_stands_in(
    source: Source, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    gate = threading.Event()
    first = source.do(lambda: _passed(gate))
    for _ in range(3):
        assert source.do(lambda: None).wait(10)
    assert not first.is_set()
    gate.set()
    assert first.wait(10)
    assert "can't start new thread" in caplog.text


def test_as_much_as_comes_is_worked_at_at_a_time(source: Source) -> None:
    inside = threading.Barrier(17)
    done = [source.do(lambda: _met(inside)) for _ in range(16)]
    _met(inside)
    assert all(event.wait(10) for event in done)


def test_threads_end_when_the_line_is_quiet_again(source: Source) -> None:
    inside = threading.Barrier(9)
    for _ in range(8):
        source.do(lambda: _met(inside))
    _met(inside)
    assert len(source.threads) > 2
    _until(lambda: len(source.threads) == 2)
    assert source.do(lambda: None).wait(10)


def test_what_fails_is_told_and_the_next_is_done(
    source: Source, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(error: BaseException) -> None:
        raise error

    with caplog.at_level(logging.ERROR):
        for error in (ValueError("seven"), SystemExit("eight")):
            source.do(partial(fail, error))
            assert source.do(lambda: None).wait(10)
    assert "seven" in caplog.text
    assert "eight" in caplog.text


def test_in_a_hurry_somebody_waits_at_any_time(
    source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Pollers, "_look", _nothing)
    gate, began = threading.Event(), threading.Event()

    def hold() -> None:
        began.set()
        _passed(gate)

    first = source.do(hold)
    assert began.wait(10)
    second = source.do(lambda: None)
    assert not second.wait(0.2)
    source.pollers.hurry()
    assert second.wait(10)
    gate.set()
    assert first.wait(10)


def _passed(gate: threading.Event) -> None:
    assert gate.wait(10)


def _nothing(_: Pollers) -> None:
    """In the place of the watchman's look."""


def _met(barrier: threading.Barrier) -> List[int]:
    return [barrier.wait(10)]
