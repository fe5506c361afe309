from __future__ import annotations

import itertools
import logging
import threading
from pathlib import Path
from typing import Callable, Iterator, List, Tuple

import pytest

from edge_agent.config import GreengrassSettings
from edge_agent.runtime.host import reconnection, subscription
from edge_agent.runtime.host.greengrass import Greengrass
from edge_agent.runtime.host.nucleus import MOST_PAYLOAD_BYTES, NucleusError
from edge_agent.runtime.results import delivery
from edge_agent.runtime.results import greengrass as greengrass_module
from edge_agent.runtime.results.greengrass import BECOMES, IotCoreSink, LocalSink, NucleusSink
from edge_agent.runtime.results.sink import (
    Message,
    MessageRefused,
    MessageRejected,
    SinkUnavailable,
)
from tests.fakes.fake_nucleus import FakeNucleus, Published
from tests.fakes.nucleus.streams import Refused
from tests.runtime.host.component import Lost, component
from tests.runtime.results.outboxes import Delivering, make, wait_until

WITHIN_S = 60.0
SETTINGS = GreengrassSettings(
    topic="edge-agent/{thing}/{model}/{kind}", local_topic="cell/{verdict}"
)
STARTED: List[NucleusSink] = []
TOPIC = "edge-agent/press-4/caps/result"


@pytest.fixture(autouse=True)
def _soon_and_stopped(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Subscriptions are tried again soon; sinks are stopped at the end."""
    monkeypatch.setattr(subscription, "RETRY_S", 0.05)
    monkeypatch.setattr(reconnection, "LONGEST_RETRY_S", 0.05)
    yield
    while STARTED:
        STARTED.pop().stop(1.0)


class Ready:
    """Counts how often a sink said that messages can pass."""

    def __init__(self) -> None:
        self._said = threading.Semaphore(0)

    def __call__(self) -> None:
        self._said.release()

    def wait(self) -> None:
        assert self._said.acquire(timeout=WITHIN_S)

    def said(self) -> bool:
        return self._said.acquire(blocking=False)


def message(body: bytes = b"{}") -> Message:
    return Message("id-1", "caps", "result", "anomaly", body)


def started(sink: NucleusSink) -> Ready:
    ready = Ready()
    STARTED.append(sink)
    sink.start(ready)
    ready.wait()
    return ready


def echo(_requester: str, payload: bytes) -> bytes:
    return payload


def error_of(sink: NucleusSink, body: bytes = b"{}") -> BaseException:
    """Why a message doesn't arrive, told at once or later."""
    with pytest.raises(Exception) as caught:  # noqa: PT011 - the callers look
        sink.send(message(body)).result(WITHIN_S)
    assert sink.problem == str(caught.value)
    return caught.value


def test_results_go_to_aws_iot_core_and_to_components_on_one_connection(
    nucleus: FakeNucleus, lost: Lost
) -> None:
    with component(nucleus.environment, lost) as greengrass:
        cloud = IotCoreSink(SETTINGS, "press-4", greengrass)
        local = LocalSink(SETTINGS, "press-4", greengrass)
        for sink in (cloud, local):
            started(sink)
            sink.send(message(b'{"n": 1}')).result(WITHIN_S)
            assert sink.problem == ""
        assert nucleus.connections() == 1
        cloud.stop(1.0)
        local.stop(1.0)
    assert (cloud.name, local.name) == ("greengrass", "greengrass-local")
    assert nucleus.published == [Published(TOPIC, b'{"n": 1}', 1)]
    assert nucleus.published_locally == [Published("cell/anomaly", b'{"n": 1}')]


def test_results_go_with_the_quality_of_service_that_is_set(lite: FakeNucleus, lost: Lost) -> None:
    with component(lite.environment, lost) as greengrass:
        sink = IotCoreSink(GreengrassSettings(topic="a", qos=0), "press-4", greengrass)
        started(sink)
        sink.send(message()).result(WITHIN_S)
    assert lite.published == [Published("a", b"{}", 0)]


def test_while_lite_is_offline_a_message_is_to_be_tried_again(
    lite: FakeNucleus, lost: Lost
) -> None:
    with component(lite.environment, lost) as greengrass:
        sink = IotCoreSink(SETTINGS, "press-4", greengrass)
        started(sink)
        lite.online = False
        error = error_of(sink)
        assert isinstance(error, SinkUnavailable)
        assert "offline or busy" in str(error)
        assert "sent again later" in str(error)
        assert TOPIC not in str(error)  # the same sentence for all, logged once
        lite.online = True
        sink.send(message()).result(WITHIN_S)
        assert sink.problem == ""
    assert len(lite.published) == 1


def test_a_full_window_of_the_largest_messages_may_be_too_much_and_passes_later(
    lite: FakeNucleus, lost: Lost
) -> None:
    with component(lite.environment, lost) as greengrass:
        sink = IotCoreSink(SETTINGS, "press-4", greengrass)
        started(sink)
        lite.acknowledging = False
        full = message(b"x" * MOST_PAYLOAD_BYTES)
        results = [sink.send(full).exception(WITHIN_S) for _ in range(sink.window)]
        assert [type(result) for result in results[:2]] == [type(None)] * 2
        assert all(isinstance(result, SinkUnavailable) for result in results[2:])
        lite.acknowledging = True
        sink.send(full).result(WITHIN_S)


@pytest.mark.parametrize("kind", [IotCoreSink, LocalSink])
def test_a_missing_policy_refuses_the_message(
    kind: Callable[..., NucleusSink], nucleus: FakeNucleus, lost: Lost
) -> None:
    nucleus.permitted = set()
    with component(nucleus.environment, lost) as greengrass:
        sink = kind(SETTINGS, "press-4", greengrass)
        started(sink)
        error = error_of(sink)
        assert isinstance(error, MessageRefused)
        assert "accessControl" in str(error)


@pytest.mark.parametrize("kind", [IotCoreSink, LocalSink])
def test_too_large_a_message_is_rejected_and_the_next_one_passes(
    kind: Callable[..., NucleusSink], nucleus: FakeNucleus, lost: Lost
) -> None:
    with component(nucleus.environment, lost) as greengrass:
        sink = kind(SETTINGS, "press-4", greengrass)
        started(sink)
        error = error_of(sink, b"x" * (MOST_PAYLOAD_BYTES + 1))
        assert isinstance(error, MessageRejected)
        assert "7001 bytes; the nucleus accepts at most 7000" in str(error)
        sink.send(message(b"x" * MOST_PAYLOAD_BYTES)).result(WITHIN_S)
    assert not lost.reasons


def test_what_a_lost_connection_takes_away_is_sent_when_the_nucleus_is_back(
    nucleus: FakeNucleus, lost: Lost
) -> None:
    with component(nucleus.environment, lost) as greengrass:
        cloud = IotCoreSink(SETTINGS, "press-4", greengrass)
        local = LocalSink(SETTINGS, "press-4", greengrass)
        ready = [started(cloud), started(local)]
        nucleus.answering = False
        waiting = [cloud.send(message()), local.send(message())]
        nucleus.until(lambda: bool(nucleus.published and nucleus.published_locally))
        token = nucleus.token
        nucleus.drop()
        wait_until(lambda: "refuses" in greengrass.problem)
        for sent in waiting:
            assert isinstance(sent.exception(WITHIN_S), SinkUnavailable)
        for sink in (cloud, local):
            with pytest.raises(SinkUnavailable):  # at once: it wasn't tried
                sink.send(message())
        cloud.reset()
        assert cloud.problem == greengrass.problem
        assert not any(one.said() for one in ready)
        nucleus.answering, nucleus.token = True, token
        for one, sink in zip(ready, (cloud, local)):
            one.wait()
            sink.send(message()).result(WITHIN_S)
            assert sink.problem == ""
    assert not lost.reasons


def test_without_a_connection_the_sink_is_never_ready(lite: FakeNucleus, lost: Lost) -> None:
    with component({**lite.environment, "SVCUID": "wrong"}, lost) as greengrass:
        sink = IotCoreSink(SETTINGS, "press-4", greengrass)
        sink.serve_commands("ask", "answer", echo)
        ready = Ready()
        sink.start(ready)
        wait_until(lambda: "refuses" in sink.problem)
        assert isinstance(error_of(sink), SinkUnavailable)
        assert not ready.said()
        sink.stop(WITHIN_S)
    assert not command_threads()


def test_a_reset_gives_up_what_isnt_answered_and_is_ready_again(
    nucleus: FakeNucleus, lost: Lost
) -> None:
    with component(nucleus.environment, lost) as greengrass:
        sink = IotCoreSink(SETTINGS, "press-4", greengrass)
        ready = started(sink)
        nucleus.answering = False
        unanswered = sink.send(message())
        nucleus.until(lambda: bool(nucleus.published))
        sink.reset()
        ready.wait()
        assert isinstance(unanswered.exception(WITHIN_S), SinkUnavailable)
        assert "didn't answer" in sink.problem
        nucleus.answering = True
        sink.send(message()).result(WITHIN_S)
        assert sink.problem == ""
        assert nucleus.connections() == 1


def test_a_stop_doesnt_wait_for_what_isnt_answered(lite: FakeNucleus, lost: Lost) -> None:
    with component(lite.environment, lost) as greengrass:
        sink = LocalSink(SETTINGS, "press-4", greengrass)
        started(sink)
        lite.answering = False
        unanswered = sink.send(message())
        sink.stop(1.0)
        assert isinstance(unanswered.exception(WITHIN_S), SinkUnavailable)
    assert not timers()


def test_what_isnt_answered_in_time_is_given_up_and_the_next_message_passes(
    lite: FakeNucleus, lost: Lost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(greengrass_module, "ANSWER_WITHIN_S", 0.1)
    with component(lite.environment, lost) as nucleus:
        sink = IotCoreSink(SETTINGS, "press-4", nucleus)
        started(sink)
        for _ in range(2):
            lite.answering = False
            assert isinstance(error_of(sink), SinkUnavailable)
            assert "hasn't answered within 0.1 s" in sink.problem
            lite.answering = True
            sink.send(message()).result(WITHIN_S)
            assert sink.problem == ""
        sink.stop(1.0)


def test_every_error_of_the_nucleus_becomes_one_of_a_sink() -> None:
    assert set(BECOMES) == set(NucleusError.__subclasses__())


def timers() -> List[threading.Timer]:
    """Those that still wait."""
    threads = [one for one in threading.enumerate() if isinstance(one, threading.Timer)]
    return [one for one in threads if not one.finished.is_set()]


# What the log says while results wait


def logged(caplog: pytest.LogCaptureFixture) -> List[Tuple[str, str]]:
    """The lines of deliveries."""
    return [
        (record.levelname, record.getMessage())
        for record in caplog.records
        if record.name.startswith("edge_agent.runtime.results.delivery")
    ]


@pytest.mark.parametrize("fault", ["offline", "not permitted"])
def test_results_that_wait_are_logged_once_and_once_when_they_have_passed(
    fault: str,
    lite: FakeNucleus,
    lost: Lost,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Lite takes and refuses messages in turns when the broker is back; that is no new outage."""
    monkeypatch.setattr(delivery, "LONGEST_BACKOFF_S", 0.05)
    caplog.set_level(logging.INFO)
    lite.online, lite.permitted = fault != "offline", None if fault == "offline" else set()
    with component(lite.environment, lost) as greengrass:
        sink = IotCoreSink(SETTINGS, "press-4", greengrass)
        with Delivering(tmp_path, sink) as delivering:
            for number in range(40):
                delivering.outbox.offer(make("caps" if number % 2 else "bolts"))
            lite.until(lambda: lite.refusals > 20)
            waiting = logged(caplog)
            with lite._changed:
                lite.catching_up, lite.online, lite.permitted = 30, True, None
            lite.until(lambda: len(lite.published) == 40)
            wait_until(lambda: delivering.delivery.problem == "")
            assert (delivering.stalls, delivering.dead) == (0, [])
    reason = "offline or busy" if fault == "offline" else "accessControl"
    topics = 1 if fault == "offline" else 2  # each topic needs its permission
    assert [(level, reason in line) for level, line in waiting] == [("WARNING", True)] * topics
    last = [line for level, line in logged(caplog)[topics:] if level == "INFO"]
    assert len(last) == 1
    assert "40 were delivered since it began, 0 wait" in last[0]


def test_a_message_that_a_busy_nucleus_refuses_in_turn_is_no_outage_and_never_given_up(
    lite: FakeNucleus,
    lost: Lost,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(delivery, "FIRST_BACKOFF_S", 0.01)
    caplog.set_level(logging.INFO)
    refused = itertools.count(1)

    def passes(resource: str) -> None:
        if "caps" in resource and next(refused) < 12:
            raise Refused("ServiceError")

    monkeypatch.setattr(lite, "_permit", passes)
    with component(lite.environment, lost) as greengrass:
        sink = IotCoreSink(SETTINGS, "press-4", greengrass)
        with Delivering(tmp_path, sink, tries=2) as delivering:
            delivering.outbox.offer(make("caps"))
            while not any("caps" in one.topic for one in list(lite.published)):
                delivering.outbox.offer(make("bolts"))
                lite.until(lambda: delivering.outbox.waiting(sink.name) < 2)
            assert not delivering.dead


# Commands


def commanded(
    greengrass: Greengrass, answer: Callable[[str, bytes], bytes], nucleus: FakeNucleus
) -> IotCoreSink:
    sink = IotCoreSink(SETTINGS, "press-4", greengrass)
    sink.serve_commands("edge/{thing}/commands", "edge/{thing}/responses", answer)
    started(sink)
    nucleus.until(lambda: bool(nucleus.subscriptions))
    return sink


def command_threads() -> List[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "commands"]


def test_a_command_is_answered_to_its_requester(nucleus: FakeNucleus, lost: Lost) -> None:
    asked: List[Tuple[str, bytes]] = []

    def answer(requester: str, payload: bytes) -> bytes:
        asked.append((requester, payload))
        return payload.upper()

    with component(nucleus.environment, lost) as greengrass:
        sink = commanded(greengrass, answer, nucleus)
        nucleus.deliver("edge/press-4/commands/hmi", b"describe")
        nucleus.deliver("edge/press-4/commands/mes", b"stop")
        nucleus.until(lambda: len(nucleus.published) == 2)
        sink.stop(WITHIN_S)
        assert not command_threads()
    assert asked == [("hmi", b"describe"), ("mes", b"stop")]
    assert nucleus.published == [
        Published("edge/press-4/responses/hmi", b"DESCRIBE", 1),
        Published("edge/press-4/responses/mes", b"STOP", 1),
    ]


def test_a_slow_command_holds_up_no_results_and_drops_the_seventeenth_waiting(
    lite: FakeNucleus, lost: Lost, caplog: pytest.LogCaptureFixture
) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def answer(_requester: str, payload: bytes) -> bytes:
        begun.set()
        assert go_on.wait(WITHIN_S)
        return payload

    with component(lite.environment, lost) as greengrass:
        sink = commanded(greengrass, answer, lite)
        lite.deliver("edge/press-4/commands/hmi", b"0")
        assert begun.wait(WITHIN_S)
        for number in range(1, 18):
            lite.deliver("edge/press-4/commands/hmi", b"%d" % number)
        sink.send(message()).result(WITHIN_S)  # behind them on the same connection
        assert lite.published == [Published(TOPIC, b"{}", 1)]
        go_on.set()
        lite.until(lambda: len(lite.published) == 18)
        sink.stop(WITHIN_S)
    assert [one.payload for one in lite.published[1:]] == [b"%d" % number for number in range(17)]
    assert "A command of 'hmi' was dropped" in caplog.text


def test_a_subscription_refused_or_ended_is_asked_for_again(
    lite: FakeNucleus, lost: Lost, caplog: pytest.LogCaptureFixture
) -> None:
    lite.online = False
    with component(lite.environment, lost) as greengrass:
        sink = IotCoreSink(SETTINGS, "press-4", greengrass)
        sink.serve_commands("edge/{thing}/commands", "edge/responses", echo)
        caplog.set_level(logging.INFO)
        started(sink)
        lite.until(lambda: lite.refusals > 2)
        lite.online = True
        for number in range(2):
            lite.until(lambda: bool(lite.subscriptions))
            lite.deliver("edge/press-4/commands/hmi", b"%d" % number)
            lite.until(lambda: len(lite.published) == number + 1)  # noqa: B023
            lite.end_subscriptions()
        lite.until(lambda: bool(lite.subscriptions))
        assert len(lite.subscriptions) == 1
        sink.stop(WITHIN_S)
    assert caplog.text.count("No commands can arrive") == 1
    assert caplog.text.count("Commands can arrive again.") == 1


def test_an_answer_that_cant_pass_is_told_and_the_next_command_served(
    lite: FakeNucleus, lost: Lost, caplog: pytest.LogCaptureFixture
) -> None:
    answers = iter([b"x" * 7001, b"short"])
    with component(lite.environment, lost) as greengrass:
        sink = commanded(greengrass, lambda _requester, _payload: next(answers), lite)
        lite.deliver("edge/press-4/commands/hmi", b"")
        lite.deliver("edge/press-4/commands/hmi", b"")
        lite.until(lambda: bool(lite.published))
        sink.stop(WITHIN_S)
    assert [one.payload for one in lite.published] == [b"short"]
    assert "The answer to 'hmi' couldn't be sent" in caplog.text


def test_with_a_lost_connection_commands_stop_at_once(
    nucleus: FakeNucleus, lost: Lost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscription, "RETRY_S", 60.0)
    with component(nucleus.environment, lost) as greengrass:
        sink = commanded(greengrass, echo, nucleus)
        nucleus.drop()
        wait_until(lambda: bool(greengrass.problem))
        sink.stop(WITHIN_S)
        assert not command_threads()
        assert not timers()


def test_a_sink_that_never_started_stops_as_well(lite: FakeNucleus, lost: Lost) -> None:
    with component(lite.environment, lost) as greengrass:
        sink = IotCoreSink(SETTINGS, "press-4", greengrass)
        sink.serve_commands("edge/{thing}/commands", "edge/responses", echo)
        sink.stop(1.0)
    assert lite.connections() == 0
