"""Closed and open loop on a clock that the test sets; the metadata with the agent's times."""

from __future__ import annotations

from typing import Dict

import pytest

from edge_agent.benchmark.loops import (
    CallResult,
    ClosedLoop,
    LoadSchedule,
    OpenLoop,
    Tally,
    drive,
    parse_server_timing,
)
from edge_agent.errors import EdgeAgentError


class Clock:
    """Moves only when somebody waits or computes."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s

    def wait(self, seconds: float) -> None:
        self.now_s += seconds


def run(
    clock: Clock, schedule: LoadSchedule, end_s: float, call_s: float, status: str = "OK"
) -> Tally:
    def call() -> CallResult:
        clock.wait(call_s)
        return CallResult(status, "compute;dur=2.5, send;dur=0.5")

    return drive(schedule, end_s, call, clock, clock.wait)


def test_the_closed_loop_sends_the_next_frame_when_it_has_the_answer() -> None:
    clock = Clock()
    tally = run(clock, ClosedLoop(101.0, 102.0, clock), 102.0, 0.25)
    assert tally.latencies_ms == pytest.approx([250.0] * 4)
    assert tally.frames_within == pytest.approx(4.0)
    assert tally.not_sent == 0


def test_a_frame_that_ends_after_the_turn_counts_by_its_share_inside() -> None:
    clock = Clock()
    tally = run(clock, ClosedLoop(100.0, 101.0, clock), 101.0, 0.4)
    assert len(tally.latencies_ms) == 3
    assert tally.frames_within == pytest.approx(2.5)


def test_an_open_loop_that_keeps_up_sends_every_frame_when_it_is_due() -> None:
    clock = Clock()
    tally = run(clock, OpenLoop(100.0, 101.0, 0.125), 101.0, 0.05)
    assert tally.latencies_ms == pytest.approx([50.0] * 8)
    assert tally.not_sent == 0


def test_latency_counts_from_when_a_frame_was_due_and_the_unsent_are_counted() -> None:
    """Due at 0, 0.2, 0.4, 0.6, 0.8; answered at 0.5, 1.0; by then the turn is over."""
    clock = Clock()
    tally = run(clock, OpenLoop(100.0, 101.0, 0.2), 101.0, 0.5)
    assert tally.latencies_ms == pytest.approx([500.0, 800.0])
    assert tally.not_sent == 3


def test_every_due_time_is_given_out_once() -> None:
    schedule = OpenLoop(0.0, 1.0, 0.25)
    assert [schedule.next_due_s() for _ in range(5)] == [0.0, 0.25, 0.5, 0.75, None]


def test_failures_are_counted_by_status_and_have_no_latency() -> None:
    clock = Clock()
    schedule = ClosedLoop(100.0, 101.0, clock)
    tally = run(clock, schedule, 101.0, 0.5, status="RESOURCE_EXHAUSTED")
    assert tally.failures == {"RESOURCE_EXHAUSTED": 2}
    assert (tally.latencies_ms, tally.frames_within) == ([], 0.0)


def test_a_client_stops_when_the_agent_is_gone() -> None:
    clock = Clock()
    schedule = ClosedLoop(100.0, 101.0, clock)
    assert run(clock, schedule, 101.0, 0.001, status="UNAVAILABLE").failures == {"UNAVAILABLE": 1}


def test_single_calls_that_fail_are_not_measured() -> None:
    CallResult().check()
    with pytest.raises(EdgeAgentError, match="frame failed: INTERNAL"):
        CallResult("INTERNAL").check()


def test_turns_add_up() -> None:
    clock = Clock()
    total = Tally(seconds=2.0)
    for begin_s in (100.0, 101.0):
        schedule = ClosedLoop(begin_s, begin_s + 1.0, clock)
        total.merge(run(clock, schedule, begin_s + 1.0, 0.25))
    assert total.throughput_fps == pytest.approx(4.0)
    assert total.stages_ms == {"compute": [2.5] * 8, "send": [0.5] * 8}


@pytest.mark.parametrize(
    ("header", "stages"),
    [
        ("", {}),
        ("receive;dur=0.10, queue;dur=0.00", {"receive": 0.1, "queue": 0.0}),
        ("a;dur=1,b;dur=2.5", {"a": 1.0, "b": 2.5}),
        ('cache;desc="hit, or ;dur=9";dur=3', {"cache": 3.0}),
        ("miss, total;dur=7", {"total": 7.0}),
        ("a ; DUR = 4", {"a": 4.0}),
        ("nonsense;dur=fast, ;;, ok;dur=1", {"ok": 1.0}),
    ],
)
def test_metrics_with_a_duration_are_read(header: str, stages: Dict[str, float]) -> None:
    assert parse_server_timing(header) == stages
