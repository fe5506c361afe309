"""When a model gets an inference unit more, and when one fewer."""

from __future__ import annotations

from typing import List, Tuple

from edge_agent.runtime.batching.batcher import QueueLoad
from edge_agent.runtime.batching.scaling import Limits, Scaler

LIMITS = Limits(minimum=1, maximum=3, up_after_s=3.0, down_after_s=60.0)


def decisions(loads: List[Tuple[int, int, float]], limits: Limits = LIMITS) -> List[int]:
    """One decision a second for loads of (instances, waited, busy)."""
    scaler = Scaler(limits)
    return [
        scaler.decide(10.0 + second, QueueLoad(instances, 0, waited, busy))
        for second, (instances, waited, busy) in enumerate(loads)
    ]


def test_queueing_that_lasts_brings_a_unit_and_starts_to_count_again() -> None:
    assert decisions([(1, 9, 1.0)] * 4 + [(2, 9, 1.0)] * 4) == [0, 0, 0, 1, 0, 0, 0, 1]


def test_a_burst_brings_none() -> None:
    assert decisions([(1, 9, 1.0), (1, 9, 1.0), (1, 0, 0.2)] * 10) == [0] * 30


def test_frames_that_wait_for_a_batch_of_an_idle_unit_bring_none() -> None:
    assert decisions([(1, 9, 0.5)] * 10) == [0] * 10


def test_there_are_never_more_than_the_maximum() -> None:
    assert decisions([(3, 9, 1.0)] * 10) == [0] * 10


def test_a_unit_without_need_goes_after_a_while() -> None:
    assert decisions([(2, 0, 0.1)] * 61) == [0] * 60 + [-1]


def test_a_unit_stays_while_fewer_would_be_busy() -> None:
    assert decisions([(2, 0, 0.4)] * 100) == [0] * 100


def test_there_are_never_fewer_than_the_minimum() -> None:
    assert decisions([(1, 0, 0.0)] * 100) == [0] * 100
    assert decisions([(0, 0, 0.0)]) == [1]


def test_a_lost_unit_that_cannot_be_replaced_is_tried_less_and_less_often() -> None:
    tried = [second for second, change in enumerate(decisions([(0, 0, 0.0)] * 300)) if change]

    assert tried[:6] == [0, 1, 3, 7, 15, 31]
    assert {later - earlier for earlier, later in zip(tried[6:], tried[7:])} == {60}


def test_the_next_lost_unit_is_replaced_at_once() -> None:
    assert decisions([(0, 0, 0.0)] * 4 + [(1, 0, 0.0), (0, 0, 0.0)]) == [1, 1, 0, 1, 0, 1]


def test_units_below_a_raised_minimum_come_with_every_look() -> None:
    few = Limits(minimum=8, maximum=8, up_after_s=3.0, down_after_s=60.0)
    assert decisions([(count, 0, 0.0) for count in range(1, 9)], few) == [1] * 7 + [0]


def test_units_above_a_lowered_maximum_go_with_every_look_however_busy() -> None:
    assert decisions([(5, 9, 1.0), (4, 9, 1.0), (3, 9, 1.0)]) == [-1, -1, 0]
