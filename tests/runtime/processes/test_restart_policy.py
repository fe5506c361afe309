"""How often a process that died is started again."""

from __future__ import annotations

from typing import List

from edge_agent.runtime.processes.restart_policy import PAUSES_S, RestartPolicy


def test_many_deaths_in_a_short_time_are_the_last() -> None:
    now = [0.0]
    policy = RestartPolicy(clock=lambda: now[0])
    assert [policy.pause_s() for _ in PAUSES_S] == list(PAUSES_S)
    work(policy, now, 60.0)
    assert [policy.pause_s() for _ in PAUSES_S] == list(PAUSES_S)
    work(policy, now, 59.0)
    assert policy.pause_s() is None
    assert str(policy) == "4 times within 60 s of work"


def test_hangs_count_however_long_they_last() -> None:
    now = [0.0]
    policy = RestartPolicy(clock=lambda: now[0])
    pauses = []
    for _ in range(4):
        work(policy, now, 10.0)
        now[0] += 3600.0
        pauses.append(policy.pause_s())
    assert pauses == [*PAUSES_S, None]


def work(policy: RestartPolicy, now: List[float], seconds: float) -> None:
    policy.succeeded()
    now[0] += seconds
    policy.succeeded()
