"""The parts of a component's life, each with a real connection to the fake nucleus."""

from __future__ import annotations

import logging
import threading
from queue import Queue
from typing import Any, Dict, Iterator, List

import pytest

from edge_agent.config import UpdatesSettings
from edge_agent.runtime.host import configuration, metrics_publisher, subscription
from edge_agent.runtime.host.configuration import ConfigurationWatcher
from edge_agent.runtime.host.greengrass import Greengrass
from edge_agent.runtime.host.metrics_publisher import UNITS, MetricsPublisher
from edge_agent.runtime.host.scheduler import Scheduler
from edge_agent.runtime.host.updates import Deferral, UpdateDeferrer
from edge_agent.runtime.metrics import Metrics
from edge_agent.types import StageTimes
from tests.fakes.fake_nucleus import FakeNucleus
from tests.fakes.nucleus.streams import Refused
from tests.runtime.host.component import Lost, component
from tests.runtime.results.outboxes import wait_until

WITHIN_S = 60.0


@pytest.fixture
def scheduler() -> Iterator[Scheduler]:
    made = Scheduler("component-test")
    yield made
    made.close(5.0)
    assert not [one for one in threading.enumerate() if one.name == "component-test"]


@pytest.fixture
def greengrass(nucleus: FakeNucleus) -> Iterator[Greengrass]:
    with component(nucleus.environment, Lost()) as made:
        made.connect().result(WITHIN_S)
        yield made


# The agenda


def test_what_is_planned_is_done_in_time_order_on_one_thread(scheduler: Scheduler) -> None:
    done: Queue[Any] = Queue()
    scheduler.schedule(lambda: done.put("later"), 0.2)
    scheduler.schedule(lambda: done.put("first"))
    scheduler.schedule(lambda: done.put("second"))
    scheduler.schedule(lambda: done.put(threading.current_thread().name), 0.1)
    order = [done.get(timeout=WITHIN_S) for _ in range(4)]
    assert order == ["first", "second", "component-test", "later"]


def test_what_fails_is_told_and_the_rest_goes_on(
    scheduler: Scheduler, caplog: pytest.LogCaptureFixture
) -> None:
    done = threading.Event()
    scheduler.schedule(lambda: 1 / 0)
    scheduler.schedule(done.set)
    assert done.wait(WITHIN_S)
    assert "ZeroDivisionError" in caplog.text


def test_a_closed_agenda_does_nothing_more() -> None:
    scheduler, done = Scheduler("component-test"), threading.Event()
    scheduler.schedule(done.set, 0.05)
    scheduler.close(5.0)
    scheduler.schedule(done.set)
    assert not done.wait(0.2)
    Scheduler("never used").close(5.0)


# Changes of the configuration


class Taken:
    """The configurations handed over."""

    def __init__(self) -> None:
        self.all: List[Dict[str, Any]] = []

    def __call__(self, configuration: Dict[str, Any]) -> None:
        self.all.append(configuration)

    def latest(self, key: str) -> Any:
        return self.all[-1].get(key) if self.all else None


@pytest.fixture
def taken(
    monkeypatch: pytest.MonkeyPatch,
    nucleus: FakeNucleus,
    greengrass: Greengrass,
) -> Taken:
    monkeypatch.setattr(configuration, "SETTLED_S", 0.02)
    monkeypatch.setattr(configuration, "RETRY_S", 0.05)
    found = Taken()
    known = greengrass.get_configuration().result(WITHIN_S)
    greengrass.scheduler.schedule(ConfigurationWatcher(greengrass, known, found).start)
    return found


def test_what_is_known_already_is_not_handed_over(nucleus: FakeNucleus, taken: Taken) -> None:
    nucleus.until(lambda: nucleus.readings == 2)
    nucleus.configure({"a": 1})
    wait_until(lambda: taken.latest("a") == 1)
    nucleus.configure({"a": 1})  # no change, no event
    nucleus.configure({"a": 2})
    wait_until(lambda: taken.latest("a") == 2)
    assert len(taken.all) == 2


def test_what_changed_before_anybody_listened_is_not_missed(
    nucleus: FakeNucleus, greengrass: Greengrass
) -> None:
    found = Taken()
    known = greengrass.get_configuration().result(WITHIN_S)
    nucleus.configure({"a": 1})
    greengrass.scheduler.schedule(ConfigurationWatcher(greengrass, known, found).start)
    wait_until(lambda: found.latest("a") == 1)


def test_a_change_while_the_configuration_is_read_is_read_as_well(
    nucleus: FakeNucleus, taken: Taken
) -> None:
    values = iter(range(2, 5))

    def change(operation: str) -> None:
        """The answer is made, an event overtakes it."""
        if operation == "GetConfiguration":
            for value in values:
                nucleus.configure({"a": value})
                nucleus.join_bursts()
                break

    nucleus.before_answering = change
    nucleus.configure({"a": 1})
    wait_until(lambda: taken.latest("a") == 4)
    assert [one["a"] for one in taken.all if "a" in one][-1] == 4


def test_an_answer_that_never_comes_is_told_once_and_asked_for_again(
    monkeypatch: pytest.MonkeyPatch,
    nucleus: FakeNucleus,
    taken: Taken,
    caplog: pytest.LogCaptureFixture,
) -> None:
    nucleus.until(lambda: nucleus.readings == 2)
    monkeypatch.setattr(configuration, "ANSWER_WITHIN_S", 0.05)
    nucleus.answering = False
    nucleus.configure({"a": 1})
    nucleus.until(lambda: nucleus.readings >= 5)
    nucleus.answering = True
    wait_until(lambda: taken.latest("a") == 1)
    told = [one.message for one in caplog.records if "can't be read" in one.message]
    assert len(told) == 1
    assert "10,000 bytes" in told[0]


def test_a_configuration_that_vanishes_is_an_empty_one(nucleus: FakeNucleus, taken: Taken) -> None:
    nucleus.until(lambda: nucleus.readings == 2)
    nucleus.configure({"a": 1})
    nucleus.configuration = None
    wait_until(lambda: taken.all == [{}])


def test_a_value_that_goes_without_an_event_is_noticed_at_the_next_regular_reading(
    nucleus: FakeNucleus,
    greengrass: Greengrass,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(configuration, "SETTLED_S", 0.0)
    monkeypatch.setattr(configuration, "READ_EVERY_S", 0.02)
    nucleus.configure({"models": {"thresholds": {"bolts": 0.75, "caps": 0.5}}})
    found = Taken()
    known = greengrass.get_configuration().result(WITHIN_S)
    greengrass.scheduler.schedule(ConfigurationWatcher(greengrass, known, found).start)
    nucleus.until(lambda: nucleus.readings >= 4)  # nothing has changed, nobody hears of it
    assert not found.all
    nucleus.reset("models", "thresholds", "bolts")
    wait_until(lambda: found.latest("models") == {"thresholds": {"caps": 0.5}})
    assert len(found.all) == 1


def test_a_refused_reading_waits_for_its_next_attempt_whatever_changes(
    nucleus: FakeNucleus, taken: Taken, scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(operation: str) -> None:
        if operation == "GetConfiguration":
            raise Refused("ServiceError")

    nucleus.until(lambda: nucleus.readings == 2)
    monkeypatch.setattr(configuration, "SETTLED_S", 0.0)
    monkeypatch.setattr(configuration, "RETRY_S", 600.0)
    nucleus.before_answering = refuse
    for value in range(5):
        nucleus.configure({"a": value})
        nucleus.join_bursts()
        nucleus.until(lambda: nucleus.refusals > 0)
        done = threading.Event()
        scheduler.schedule(done.set, 0.05)
        assert done.wait(WITHIN_S)
    assert nucleus.refusals == 1
    assert not taken.all


def test_a_subscription_that_is_refused_is_told_once_and_asked_for_again(
    nucleus: FakeNucleus,
    greengrass: Greengrass,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(configuration, "RETRY_S", 0.02)
    held, nucleus.configuration = nucleus.configuration, None
    found = Taken()
    greengrass.scheduler.schedule(ConfigurationWatcher(greengrass, {}, found).start)
    nucleus.until(lambda: nucleus.refusals >= 3)
    nucleus.configuration = held
    wait_until(lambda: bool(found.all))
    assert len([one for one in caplog.records if "not noticed immediately" in one.message]) == 1


# Updates


def answers(steps: List[Any], quiet_s: float = 5.0, at_most_s: float = 30.0) -> List[float]:
    """What a deferral says; a step is (deployment, quiet for so long, now), or "over"."""
    deferral = Deferral()
    settings = UpdatesSettings(quiet_s=quiet_s, defer_at_most_s=at_most_s)
    found = []
    for step in steps:
        if step == "over":
            deferral.over()
        else:
            deployment, quiet_for_s, now = step
            found.append(deferral.recheck_after_s(deployment, settings, quiet_for_s, now))
    return found


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ([("a", 5.0, 0.0)], [0.0]),
        ([("a", float("inf"), 0.0)], [0.0]),
        ([("a", 4.9, 0.0)], [5.0]),
        ([("a", 0, 0), ("a", 0, 5), ("a", 5, 10)], [5, 5, 0]),
        ([("a", 0, 0), ("a", 0, 28), ("a", 0, 30)], [5, 2, 0]),
        ([("a", 0, 0), ("a", 0, 31), ("a", 0, 40)], [5, 0, 0]),  # asked for again by another's wish
        ([("a", 9, 0), ("a", 0, 29), ("a", 0, 31)], [0, 1, 0]),  # the time of the first counts
        ([("a", 0, 0), ("b", 0, 31), ("b", 0, 62)], [5, 5, 0]),
        ([("a", 0, 0), "over", ("a", 0, 31)], [5, 5]),  # the same one, later on
    ],
)
def test_a_deployment_waits_for_quiet_and_not_for_ever(
    steps: List[Any], expected: List[float]
) -> None:
    assert answers(steps) == expected


def test_a_deployment_never_waits_where_the_settings_say_so() -> None:
    assert answers([("a", 0.0, 0.0)], quiet_s=0.0) == [0.0]
    assert answers([("a", 0.0, 0.0)], at_most_s=0.0) == [0.0]


def test_the_nucleus_is_not_asked_to_look_more_often_than_it_can() -> None:
    assert answers([("a", 0.0, 0.0)], quiet_s=0.01) == [1.0]


def told_to_wait(nucleus: FakeNucleus) -> bool:
    deployment = nucleus.deploy("d1")
    assert deployment.went.wait(WITHIN_S)
    return deployment.answers != [0]


@pytest.mark.parametrize("nucleus", ["classic"], indirect=True)
def test_updates_are_followed_again_when_the_nucleus_has_ended_to_tell_them(
    nucleus: FakeNucleus,
    greengrass: Greengrass,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(subscription, "RETRY_S", 0.02)
    following = UpdateDeferrer(greengrass, UpdatesSettings, lambda: 60.0)
    greengrass.scheduler.schedule(following.start)
    for _ in range(2):
        nucleus.until(lambda: len(nucleus.subscriptions) == 1)
        assert not told_to_wait(nucleus)
        nucleus.end_subscriptions()


@pytest.mark.parametrize("nucleus", ["lite"], indirect=True)
def test_updates_that_arent_offered_are_asked_for_once(
    nucleus: FakeNucleus,
    greengrass: Greengrass,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(subscription, "RETRY_S", 0.0)
    greengrass.scheduler.schedule(UpdateDeferrer(greengrass, UpdatesSettings, lambda: 60.0).start)
    wait_until(lambda: "don't wait for the agent" in caplog.text)
    done = threading.Event()
    greengrass.scheduler.schedule(done.set, 0.05)
    assert done.wait(WITHIN_S)
    assert nucleus.refusals == 1
    assert [one.levelname for one in caplog.records if "Updates" in one.message] == ["INFO"]


# Counts


@pytest.mark.parametrize("nucleus", ["classic"], indirect=True)
def test_the_nucleus_gets_what_was_counted_since_the_last_time(
    nucleus: FakeNucleus,
    greengrass: Greengrass,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(metrics_publisher, "EVERY_S", 0.02)
    metrics = Metrics()
    greengrass.scheduler.schedule(MetricsPublisher(greengrass, metrics.totals).publish)
    nucleus.until(lambda: len(nucleus.metrics) > 1)
    for _ in range(3):
        metrics.succeeded("bolts", True, [], StageTimes(queue=0.25, compute=0.5))
    metrics.succeeded("caps", False, [], StageTimes())
    metrics.failed("caps", "RESOURCE_EXHAUSTED", invalid_image=False)
    metrics.failed("caps", "INVALID_ARGUMENT", invalid_image=True)
    nucleus.until(lambda: sum(one["ErrorCount"] for one in nucleus.metrics) == 2)
    given = len(nucleus.metrics)
    nucleus.until(lambda: len(nucleus.metrics) > given + 1)
    greengrass.scheduler.close(5.0)
    sums = {name: sum(one[name] for one in nucleus.metrics) for name in UNITS}
    assert sums == {
        "ProcessedImageCount": 4, "DetectedAnomalyCount": 3, "InvalidImageCount": 1,
        "SuccessfulRequestCount": 4, "ErrorCount": 2, "ThrottledCount": 1,
        "Time": pytest.approx(2.25),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("nucleus", "spoil"),
    [("classic", "component"), ("classic", "policy"), ("lite", "nothing")],
    indirect=["nucleus"],
)
def test_a_nucleus_that_takes_no_metrics_is_asked_once(
    spoil: str,
    nucleus: FakeNucleus,
    greengrass: Greengrass,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(metrics_publisher, "EVERY_S", 0.0)
    nucleus.component = "com.example.Agent" if spoil == "component" else nucleus.component
    nucleus.permitted = {"Time"} if spoil == "policy" else None
    greengrass.scheduler.schedule(MetricsPublisher(greengrass, Metrics().totals).publish)
    wait_until(lambda: "Component metrics are only for" in caplog.text)
    greengrass.update_state("RUNNING").result(WITHIN_S)  # the connection is as good as before
    assert (nucleus.refusals, nucleus.metrics) == (1, [])
    assert [one.levelname for one in caplog.records if "metrics" in one.message] == ["INFO"]


@pytest.mark.parametrize("nucleus", ["classic"], indirect=True)
def test_a_nucleus_that_is_busy_gets_the_same_counts_later(
    nucleus: FakeNucleus,
    greengrass: Greengrass,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(metrics_publisher, "EVERY_S", 0.02)
    metrics = Metrics()
    greengrass.scheduler.schedule(MetricsPublisher(greengrass, metrics.totals).publish)
    nucleus.until(lambda: bool(nucleus.metrics))
    for refusals in (3, 6):
        nucleus.busy = True
        metrics.failed("caps", "RESOURCE_EXHAUSTED", invalid_image=False)
        nucleus.until(lambda enough=refusals: nucleus.refusals >= enough)
        nucleus.busy = False
        given = len(nucleus.metrics)
        nucleus.until(lambda before=given: len(nucleus.metrics) > before)
    greengrass.scheduler.close(5.0)
    assert sum(one["ThrottledCount"] for one in nucleus.metrics) == 2
    assert len([one for one in caplog.records if "sent again later" in one.message]) == 2


@pytest.mark.parametrize("nucleus", ["classic"], indirect=True)
def test_a_policy_that_goes_ends_the_counts(
    nucleus: FakeNucleus,
    greengrass: Greengrass,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(metrics_publisher, "EVERY_S", 0.0)
    greengrass.scheduler.schedule(MetricsPublisher(greengrass, Metrics().totals).publish)
    nucleus.until(lambda: len(nucleus.metrics) > 1)
    nucleus.permitted = {"Time"}
    wait_until(lambda: "Component metrics are only for" in caplog.text)
    greengrass.update_state("RUNNING").result(WITHIN_S)
    assert nucleus.refusals == 1


def test_the_figures_tell_how_long_no_frame_was_judged() -> None:
    metrics = Metrics()
    metrics.failed("bolts", "NOT_FOUND", invalid_image=False)  # that holds up no deployment
    assert metrics.quiet_for_s() == float("inf")
    metrics.succeeded("bolts", False, [], StageTimes())
    wait_until(lambda: metrics.quiet_for_s() > 0.01)
    assert metrics.quiet_for_s() < 60.0
    quiet_for_s = metrics.quiet_for_s()
    metrics.failed("bolts", "UNAVAILABLE", invalid_image=False)
    assert metrics.quiet_for_s() >= quiet_for_s
