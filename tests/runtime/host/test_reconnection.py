"""The way back to a nucleus that was away: when, as whom, and what is made again."""

from __future__ import annotations

from pathlib import Path
from queue import Queue
from typing import Any, Dict, List, Optional, Tuple

import pytest

from edge_agent.runtime.host import reconnection, subscription
from edge_agent.runtime.host.reconnection import LEAST_RUN_S, REFUSED_FOR_S, Reconnection
from edge_agent.runtime.host.subscription import Subscription
from tests.fakes.fake_nucleus import FakeNucleus
from tests.runtime.host.component import Lost, component
from tests.runtime.results.outboxes import wait_until

WITHIN_S = 60.0
NAME = "aws.iot.lookoutvision.EdgeAgent"


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconnection, "LONGEST_RETRY_S", 0.01)
    monkeypatch.setattr(subscription, "RETRY_S", 0.01)


def tries(steps: List[Tuple[float, bool]], name: str = NAME) -> List[Any]:
    """What follows each failure; a step is (when, whether it was a refusal)."""
    policy = Reconnection("/ipc", "token", name)
    policy._began = 0.0  # type: ignore[attr-defined]
    return [policy.failed("closed", refused, now) for now, refused in steps]


def test_a_nucleus_that_is_away_is_waited_for_without_a_limit() -> None:
    assert not any(step.gives_up for step in tries([(now, False) for now in range(0, 10**6, 999)]))


def test_a_refused_component_ends_at_most_three_times_an_hour() -> None:
    times = [5.0 * count for count in range(1000)]
    steps = tries([(now, True) for now in times], name="")
    ended = next(now for now, step in zip(times, steps) if step.gives_up)
    assert 3 * ended > 3600.0

    late = [(10**6 + now, True) for now in times]  # it has run for long
    ended = next(now for (now, _), step in zip(late, tries(late, name="")) if step.gives_up)
    assert REFUSED_FOR_S <= ended - 10**6 < REFUSED_FOR_S + 10


def test_a_refusal_counts_from_the_last_time_that_the_nucleus_was_away() -> None:
    now = LEAST_RUN_S
    steps = [(now, True), (now + 50, False), (now + 70, True), (now + 131, True)]
    assert [step.gives_up for step in tries(steps, name="")] == [False, False, False, True]


def test_the_name_is_tried_at_once_when_the_token_is_refused() -> None:
    policy = Reconnection("/ipc", "token", NAME)
    assert policy.identity == {"authToken": "token"}
    assert policy.failed("closed", was_refused=True, now=0.0).at_once
    assert policy.identity == {"componentName": NAME}
    policy.connected(1.0)
    assert policy.identity == {"componentName": NAME}  # the token is forgotten
    assert policy.failed("closed", was_refused=True, now=2.0).at_once
    assert policy.identity == {"authToken": "token"}


@pytest.mark.parametrize("forgets", [False, True])
def test_the_component_comes_back_and_its_subscriptions_with_it(
    lite: FakeNucleus, lost: Lost, forgets: bool
) -> None:
    heard: Queue[bytes] = Queue()
    answers: List[Optional[BaseException]] = []
    with component(lite.environment, lost, name=NAME) as greengrass:
        kept = Subscription(
            greengrass,
            lambda on_end: greengrass.subscribe("a/+", lambda _t, load: heard.put(load), on_end),
            lambda error: answers.append(error) is None,
        )
        kept.start()
        greengrass.connect().result(WITHIN_S)
        for count in range(3):
            wait_until(lambda most=count + 1: len(answers) == most)  # type: ignore[misc]
            lite.deliver("a/b", b"%d" % count)
            assert heard.get(timeout=WITHIN_S) == b"%d" % count
            (lite.drop if forgets else lite.cut)()
        wait_until(lambda: len(answers) == 4)
        assert len(lite.subscriptions) == 1
        greengrass.publish("a", b"", qos=1).result(WITHIN_S)
        assert greengrass.problem == ""
    assert answers == [None] * 4
    assert bool(lite.names) == forgets
    assert not lost.reasons


def test_a_process_outside_the_unit_is_refused_until_it_may_end(
    lite: FakeNucleus, lost: Lost, monkeypatch: pytest.MonkeyPatch
) -> None:
    lite.in_unit = False  # as in a container
    with component(lite.environment, lost, name=NAME) as greengrass:
        greengrass.connect().result(WITHIN_S)
        lite.drop()
        wait_until(lambda: "doesn't accept the name" in greengrass.problem)
        assert not lost.reasons
        monkeypatch.setattr(reconnection, "REFUSED_FOR_S", 0.0)
        monkeypatch.setattr(reconnection, "LEAST_RUN_S", 0.0)
        assert lost.told.wait(WITHIN_S)
    assert len(lost.reasons) == 1


def test_a_nucleus_that_starts_again_is_found_at_its_socket(tmp_path: Path, lost: Lost) -> None:
    environment: Dict[str, str] = {}
    with FakeNucleus(tmp_path / "ipc") as first:
        environment.update(first.environment)
        made = component(environment, lost, name=NAME)
        greengrass = made.__enter__()
        greengrass.connect().result(WITHIN_S)
    try:
        (tmp_path / "ipc").unlink()
        wait_until(lambda: "is away" in greengrass.problem)
        with FakeNucleus(tmp_path / "ipc") as second:
            second.token = "another one"
            wait_until(lambda: greengrass.problem == "")
            greengrass.publish("a", b"", qos=1).result(WITHIN_S)
            assert second.names == [NAME]
    finally:
        made.__exit__(None, None, None)
