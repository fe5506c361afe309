from __future__ import annotations

import threading
import time
from concurrent.futures import CancelledError, ThreadPoolExecutor
from typing import List

import pytest

from edge_agent.errors import CallsTakeTooMuch
from edge_agent.runtime.rpc.memory_budget import (
    GRACE_S,
    MIB,
    TIMES_AS_LONG,
    USUAL_S,
    Lease,
    MemoryBudget,
)


class Clock:
    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


class Bench:
    """A budget of 10 MiB whose clock the test sets; notes who was cancelled."""

    def __init__(self, kept_mib: int = 0) -> None:
        self.clock = Clock()
        self.still_s = 0.0  # of the time that callers took
        self.budget = MemoryBudget(
            10 * MIB, kept_mib * MIB, self.clock, lambda _since: self.still_s
        )
        self.cancelled: List[str] = []

    def lease(self, name: str, mib: int = 0) -> Lease:
        lease = self.budget.lease(lambda: self.cancelled.append(name))
        lease.resize(mib * MIB)
        return lease


def test_what_fits_is_held_and_comes_back() -> None:
    bench = Bench()
    first, second = bench.lease("first", 4), bench.lease("second", 6)
    assert bench.budget.used_bytes == 10 * MIB
    first.resize(1 * MIB)
    assert bench.budget.used_bytes == 7 * MIB
    for _ in range(2):  # more than once does no harm
        second.end()
    assert bench.budget.used_bytes == 1 * MIB
    assert bench.budget.take_peak() == 10 * MIB
    assert bench.budget.take_peak() == 1 * MIB


def test_who_needs_more_than_there_is_is_refused_at_once_and_keeps_what_he_has() -> None:
    bench = Bench()
    held, other = bench.lease("held", 6), bench.lease("other", 3)
    with pytest.raises(CallsTakeTooMuch, match=r"needs 5\.0 MiB .* 9 of 10 MiB.*memory_mib"):
        other.resize(5 * MIB)
    assert (held.size, other.size, bench.cancelled) == (6 * MIB, 3 * MIB, [])
    assert bench.budget.refused == 1


def test_callers_who_keep_the_agent_waiting_make_room_the_slowest_first() -> None:
    bench = Bench()
    for name, mib in (("slowest", 2), ("slow", 2), ("slow too", 2)):
        bench.lease(name, mib).wait_for_caller(60.0)
        bench.clock.now_s += 0.1
    bench.lease("at work", 4)
    with pytest.raises(CallsTakeTooMuch):
        bench.lease("too early", 3)
    bench.clock.now_s += TIMES_AS_LONG * USUAL_S
    bench.lease("in time", 3)
    assert bench.cancelled == ["slowest", "slow"]
    assert bench.budget.used_bytes == 9 * MIB
    assert bench.budget.evicted == 2


def test_what_is_slow_is_learned_from_callers_who_came_through() -> None:
    bench = Bench()
    for _ in range(100):  # they take no time
        quick = bench.lease("quick", 1)
        quick.wait_for_caller(60.0)
        quick.done()
    bench.lease("stalls", 10).wait_for_caller(60.0)
    bench.clock.now_s += 1.1 * GRACE_S
    slow = bench.lease("slow", 10)
    assert bench.cancelled == ["stalls"]
    slow.wait_for_caller(60.0)
    bench.clock.now_s += 3.0
    slow.done()  # a slow line: the next may take several times as long
    bench.lease("slow too", 10).wait_for_caller(60.0)
    bench.clock.now_s += 9.0
    with pytest.raises(CallsTakeTooMuch):
        bench.lease("next", 1)
    bench.clock.now_s += 3.5
    bench.lease("next", 1)
    assert bench.cancelled == ["stalls", "slow too"]


def test_nobody_waits_in_vain() -> None:
    """For those at work; only who waits for its caller can make room soon."""
    budget = MemoryBudget(10 * MIB)
    budget.lease(lambda: None).resize(10 * MIB)
    began = time.monotonic()
    with pytest.raises(CallsTakeTooMuch):
        budget.lease(lambda: None).resize(MIB, within_s=60.0)
    assert time.monotonic() - began < 30.0


def test_nobody_is_cut_off_in_vain() -> None:
    bench = Bench()
    bench.lease("slow", 2).wait_for_caller(60.0)
    bench.lease("at work", 8)
    bench.clock.now_s += 10.0
    with pytest.raises(CallsTakeTooMuch):
        bench.lease("large", 5)
    assert bench.cancelled == []


def test_a_call_at_work_is_never_cut_off() -> None:
    bench = Bench()
    lease = bench.lease("call", 10)
    lease.wait_for_caller(1.0)
    lease.work()
    bench.clock.now_s += 1000.0
    assert bench.budget.cancel_overdue() == 0
    with pytest.raises(CallsTakeTooMuch):
        bench.lease("next", 1)
    assert bench.cancelled == []


def test_who_is_overdue_is_cut_off_though_there_is_room() -> None:
    bench = Bench()
    lease = bench.lease("late", 1)
    lease.wait_for_caller(30.0)
    bench.lease("in time", 1).wait_for_caller(31.0)
    bench.clock.now_s += 30.5
    assert bench.budget.cancel_overdue() == 1
    assert bench.cancelled == ["late"]
    assert bench.budget.used_bytes == MIB
    with pytest.raises(CancelledError):  # its handler may still be on its way
        lease.resize(2 * MIB)
    lease.shrink(0)
    lease.end()
    assert bench.budget.used_bytes == MIB


def test_large_requests_leave_a_part_to_small_ones() -> None:
    bench = Bench(kept_mib=2)
    bench.lease("large", 8)
    with pytest.raises(CallsTakeTooMuch):
        bench.lease("large too", 2)
    bench.lease("small", 1)
    bench.lease("small too", 1)


def test_who_may_wait_gets_the_room_that_becomes_free() -> None:
    budget = MemoryBudget(10 * MIB)
    held = budget.lease(lambda: None)
    held.resize(10 * MIB)
    held.wait_for_caller(60.0)
    waiting = budget.lease(lambda: None)
    threading.Timer(0.05, held.end).start()
    waiting.resize(5 * MIB, within_s=20.0)
    assert budget.used_bytes == 5 * MIB


def test_many_threads_never_hold_more_than_the_limit_and_end_with_nothing() -> None:
    budget = MemoryBudget(10 * MIB)
    over: List[int] = []

    def call(number: int) -> None:
        for turn in range(200):
            lease = budget.lease(lambda: None)
            lease.wait_for_caller(60.0)
            try:
                lease.resize((1 + (number + turn) % 4) * MIB, within_s=20.0)
                if budget.used_bytes > budget.limit_bytes:
                    over.append(budget.used_bytes)
            finally:
                lease.end()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(call, range(8)))
    assert over == []
    assert budget.used_bytes == 0
    assert 4 * MIB <= budget.take_peak() <= 10 * MIB


def test_callers_are_not_late_by_the_time_in_which_the_agent_stood_still() -> None:
    bench = Bench()
    first, second = bench.lease("first", 6), bench.lease("second", 4)
    for lease in (first, second):
        lease.wait_for_caller(30.0)
    bench.clock.now_s += 100.0
    bench.still_s = 99.9
    assert bench.budget.cancel_overdue() == 0
    with pytest.raises(CallsTakeTooMuch):  # nobody is slow enough to be cut off for it
        bench.lease("third", 1)
    first.work()
    bench.still_s = 0.0
    bench.clock.now_s += 1.0  # much longer than usual, which 100 s didn't become
    second.wait_for_caller(30.0)
    bench.clock.now_s += TIMES_AS_LONG * USUAL_S + 0.1
    bench.lease("third", 1)
    assert bench.cancelled == ["second"]
