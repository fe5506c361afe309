from __future__ import annotations

import threading
from typing import List

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.service.faults import Throttled
from edge_agent.service.settings import QuotaSettings
from edge_agent.service.throttle import Throttle


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def passed(throttle: Throttle, calls: int, account: str = "1", operation: str = "Call") -> int:
    through = 0
    for _ in range(calls):
        try:
            throttle.take(account, operation)
            through += 1
        except Throttled:
            pass
    return through


def test_a_burst_goes_through_and_then_as_many_as_time_allows() -> None:
    clock = Clock()
    throttle = Throttle(5.0, 10, clock)
    assert passed(throttle, 20) == 10
    clock.now += 1.0
    assert passed(throttle, 20) == 5
    clock.now += 3600.0
    assert passed(throttle, 20) == 10


def test_a_thousand_calls_at_once_pass_by_default() -> None:
    quotas = QuotaSettings()
    throttle = Throttle(quotas.calls_per_s, quotas.burst, Clock())
    assert passed(throttle, 2000) == 1000


def test_the_answer_says_how_long_to_wait() -> None:
    clock = Clock()
    throttle = Throttle(0.25, 1, clock)
    throttle.take("1", "StartModel")
    with pytest.raises(Throttled, match=r"Too many calls of StartModel: at most 0.25 a second"):
        throttle.take("1", "StartModel")
    clock.now += 0.5
    with pytest.raises(Throttled) as raised:
        throttle.take("1", "StartModel")
    assert raised.value.code == "ThrottlingException"
    assert raised.value.members["RetryAfterSeconds"] == 4
    clock.now += 4
    throttle.take("1", "StartModel")


def test_each_account_and_operation_has_its_own() -> None:
    throttle = Throttle(1.0, 3, Clock())
    pairs = [("1", "StopModel"), ("2", "StopModel"), ("1", "StartModel")]
    assert [passed(throttle, 5, *pair) for pair in pairs] == [3, 3, 3]


def test_pictures_are_limited_by_inference_units_alone() -> None:
    assert passed(Throttle(1.0, 1, Clock()), 100, operation="DetectAnomalies") == 100


def test_threads_together_get_no_more() -> None:
    throttle = Throttle(1.0, 50, Clock())
    through: List[int] = []
    threads = [
        threading.Thread(target=lambda: through.append(passed(throttle, 20))) for _ in range(10)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(through) == 50


@given(
    rate=st.floats(0.1, 1000),
    burst=st.integers(1, 50),
    pauses=st.lists(st.floats(0, 5), max_size=50),
)
def test_no_more_than_the_rate_and_the_burst_go_through(
    rate: float, burst: int, pauses: List[float]
) -> None:
    clock = Clock()
    throttle = Throttle(rate, burst, clock)
    through = 0
    for pause in pauses:
        clock.now += pause
        through += passed(throttle, burst + 1)
    assert through <= burst + rate * sum(pauses) + 1e-3
    clock.now += burst / rate + 1e-3
    assert passed(throttle, burst + 5) >= burst
