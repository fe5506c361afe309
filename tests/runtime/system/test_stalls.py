"""Time in which a process stood still is nobody's fault."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future
from concurrent.futures import TimeoutError as TooLate
from typing import List

import pytest

from edge_agent.runtime.system import stalls
from edge_agent.runtime.system.stalls import KEPT, Alarm, StallWatch, result


class Clock:
    """Goes on in steps, with a beat after each while the process runs."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.watch = StallWatch(lambda: self.now_s)
        self.watch.beat()

    def run(self, seconds: float) -> None:
        for _ in range(round(4 * seconds)):
            self.now_s += 0.25
            self.watch.beat()

    def stop(self, seconds: float, is_noticed: bool = True) -> None:
        self.now_s += seconds
        if is_noticed:
            self.watch.beat()


def test_a_process_that_runs_never_stands_still() -> None:
    clock = Clock()
    clock.run(30)
    clock.stop(0.9)  # a short delay is no stall
    assert clock.watch.stood_still_s(1000.0) == 0.0
    assert clock.watch.ran_s(1000.0) == pytest.approx(30.9)


def test_without_a_watch_all_time_is_running_time() -> None:
    assert StallWatch(lambda: 500.0).ran_s(100.0) == 400.0


@pytest.mark.parametrize("is_noticed", [True, False])
def test_a_stall_does_not_count_even_before_the_watch_itself_runs_again(is_noticed: bool) -> None:
    clock = Clock()
    clock.run(10)
    clock.stop(100.0, is_noticed)
    assert clock.watch.ran_s(1000.0) == pytest.approx(10.0)
    assert clock.watch.stood_still_s(1010.0) == pytest.approx(100.0)
    assert clock.watch.stood_still_s(1050.0) == pytest.approx(60.0)  # began in the midst of it
    assert clock.watch.stood_still_s(1110.0) == 0.0


def test_running_time_never_goes_back_however_many_stalls_there_are() -> None:
    clock, before = Clock(), 0.0
    for _ in range(3 * KEPT):
        clock.run(1)
        clock.stop(5.0)
        ran = clock.watch.ran_s(0.0)
        assert ran == pytest.approx(before + 1.0 if before else ran)
        before = ran
    assert clock.watch.stood_still_s(1000.0) == pytest.approx(15.0 * KEPT)


@pytest.fixture
def one_stall(monkeypatch: pytest.MonkeyPatch) -> List[float]:
    """Let the first look at how long the process ran find that it didn't."""
    ran = [0.0]
    monkeypatch.setattr(stalls, "ran_s", lambda _since: ran.pop() if ran else 1e9)
    return ran


def test_a_wait_goes_on_after_a_stall(one_stall: List[float]) -> None:
    future: Future[int] = Future()
    began = time.monotonic()
    with pytest.raises(TooLate):
        result(future, 0.05)
    assert not one_stall
    assert time.monotonic() - began >= 0.1
    future.set_result(7)
    assert result(future, 0.05) == 7


def test_an_alarm_waits_longer_after_a_stall_and_can_be_cancelled(one_stall: List[float]) -> None:
    rung = threading.Event()
    alarm = Alarm(0.01, rung.set)
    alarm.start()
    alarm.join(10)
    assert rung.is_set()
    assert not one_stall
    called = threading.Event()
    alarm = Alarm(60.0, called.set)
    alarm.start()
    alarm.cancel()
    alarm.join(10)
    assert not called.is_set()
