"""A command runs at its time, once, and of a requester that can be answered: over a real broker."""

from __future__ import annotations

import json
import queue
import time
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List

import pytest

from edge_agent.config import CommandsSettings
from edge_agent.runtime.remote.remote_commands import MOST_REMEMBERED, RemoteCommands
from edge_agent.runtime.results.command_queue import Command, CommandQueue
from edge_agent.types import ModelState
from tests.fakes import micro
from tests.fakes.broker import Broker, Listener
from tests.fakes.device import Device
from tests.runtime.results.mqtt_sinks import THING, needs_mosquitto, running, settings

COMMANDS, RESPONSES = f"edge-agent/{THING}/commands", f"edge-agent/{THING}/responses"
ALLOW: Dict[str, Any] = {"hmi": ("start", "stop", "describe", "set-threshold")}


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    folder = tmp_path / "broker"
    folder.mkdir()
    with Broker(folder) as server:
        yield server


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    micro.write(tmp_path / "packages" / "plates", "classification")
    with Device(tmp_path) as device:
        device.record("plates")
        device.detector.start("plates")
        device.wait("plates", ModelState.RUNNING)
        yield device


class Clock:
    """The device's clock."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


def commands_of(device: Device, clock: Callable[[], float], **more: Any) -> RemoteCommands:
    given = CommandsSettings(allow=ALLOW, **more)
    return RemoteCommands(device.detector, given, lambda _model: None, clock)


@pytest.fixture
def commands(device: Device, clock: Clock) -> RemoteCommands:
    """Of an agent that started a minute ago."""
    clock.ahead_s = -60.0
    started = commands_of(device, clock)
    clock.ahead_s = 0.0
    return started


def test_what_was_given_before_the_agent_started_never_runs(
    device: Device, clock: Clock, commands: RemoteCommands
) -> None:
    """It may have run already: nothing is remembered over a restart."""
    given = stop(time=clock() - 5.0)
    assert ask(commands, given)["ok"]
    restarted = commands_of(device, clock)
    assert "before the agent started" in refused(ask(restarted, given))
    clock.ahead_s = -3600.0  # set back: what is given from now on runs
    assert "before the agent" not in str(ask(restarted, stop(time=clock())))


def test_a_clock_that_is_set_right_lets_no_earlier_command_run_again(
    device: Device, clock: Clock
) -> None:
    """The device booted in 1970, the agent began there, and then the time came."""
    given = stop(time=clock() - 5.0)
    clock.ahead_s = 100.0 - time.time()
    started = commands_of(device, clock)
    clock.ahead_s = 0.0
    assert "before the agent started" in refused(ask(started, given))
    assert "before the agent" not in str(ask(started, stop(time=clock())))


def iso(ago_s: float = 0.0) -> str:
    return (datetime.now(timezone.utc) - timedelta(seconds=ago_s)).isoformat()


def stop(**more: Any) -> str:
    return json.dumps({"command": "stop", "model": "plates", **more})


def ask(commands: RemoteCommands, text: str, requester: str = "hmi") -> Any:
    return json.loads(commands.answer(requester, text.encode()))


def refused(answer: Any) -> str:
    assert answer["ok"] is False, answer
    return f"{answer['error']['status']} {answer['error']['message']}"


def state(device: Device) -> ModelState:
    return device.detector.describe("plates").state


# Over a broker


@contextmanager
def served(broker: Broker, commands: RemoteCommands) -> Iterator[Listener]:
    answer, given = commands.answer, settings(broker.port)
    with broker.listener(f"{RESPONSES}/+") as listener, running(given, answer):
        yield listener


def answer_of(listener: Listener) -> Any:
    return json.loads(listener.next().payload)


@needs_mosquitto
def test_a_stop_kept_by_the_broker_since_yesterday_never_runs(
    broker: Broker, device: Device, commands: RemoteCommands, clock: Clock
) -> None:
    """It waited in the session of an agent that was away."""
    with served(broker, commands) as listener:
        broker.publish(f"{COMMANDS}/hmi", '{"command": "describe"}')
        assert answer_of(listener)["ok"]
    broker.publish(f"{COMMANDS}/hmi", stop(time=time.time()))
    clock.ahead_s = 86_400.0
    with served(broker, commands) as listener:
        assert "DEADLINE_EXCEEDED The command's time is 86" in refused(answer_of(listener))
    assert state(device) is ModelState.RUNNING


@needs_mosquitto
def test_a_stop_in_time_runs_once_however_often_it_is_sent(
    broker: Broker, device: Device, commands: RemoteCommands
) -> None:
    sent = stop(time=iso(), id=1)
    with served(broker, commands) as listener:
        broker.publish(f"{COMMANDS}/hmi", sent)
        assert answer_of(listener)["model"]["state"] == "STOPPED"
        device.detector.start("plates")
        device.wait("plates", ModelState.RUNNING)
        broker.publish(f"{COMMANDS}/hmi", sent)
        assert "ALREADY_EXISTS" in refused(answer_of(listener))
    assert state(device) is ModelState.RUNNING


@needs_mosquitto
def test_a_retained_stop_never_runs_not_even_when_it_is_new(
    broker: Broker, device: Device, commands: RemoteCommands
) -> None:
    with served(broker, commands) as listener:
        broker.publish(f"{COMMANDS}/hmi", stop(time=iso()), "-r")
        broker.publish(f"{COMMANDS}/hmi", '{"command": "describe", "id": "after"}')
        assert answer_of(listener)["id"] == "after"
    with served(broker, commands) as listener:
        broker.publish(f"{COMMANDS}/hmi", '{"command": "describe", "id": "again"}')
        assert answer_of(listener)["id"] == "again"
    assert state(device) is ModelState.RUNNING


@needs_mosquitto
def test_a_requester_of_a_name_without_measure_gets_no_answer(
    broker: Broker, commands: RemoteCommands, caplog: pytest.LogCaptureFixture
) -> None:
    """At AWS IoT Core an answer on so long a topic ends the device's connection."""
    with served(broker, commands) as listener:
        broker.publish(f"{COMMANDS}/{'x' * 3000}", '{"command": "describe"}')
        broker.publish(f"{COMMANDS}/$share", '{"command": "describe"}')
        broker.publish(f"{COMMANDS}/hmi", '{"command": "describe"}')
        assert listener.next().topic == f"{RESPONSES}/hmi"
        assert listener.nothing_more()
    assert caplog.text.count("can't be part of a topic") == 2
    assert "x" * 300 not in caplog.text


def test_a_message_that_expired_while_it_waited_is_not_carried_out() -> None:
    done: List[str] = []
    answers: queue.Queue[bytes] = queue.Queue()

    def answer(requester: str, _payload: bytes) -> bytes:
        done.append(requester)
        return b"{}"

    waiting = CommandQueue(answer, lambda _command, answer: answers.put(answer))
    waiting.offer(Command("late", b"{}", expires_after_s=5.0, arrived=time.monotonic() - 6.0))
    waiting.offer(Command("hmi", b"{}", expires_after_s=500.0))
    waiting.start()
    try:
        assert b"expired" in answers.get(timeout=20)
        assert answers.get(timeout=20) == b"{}"
    finally:
        waiting.stop(5.0)
    assert done == ["hmi"]


@pytest.mark.parametrize("name", ["", "a\nb", "x" * 129, "a#", "$SYS", "a{thing}", "\u202e"])
def test_a_requester_with_an_odd_name_is_dropped_before_it_waits(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    waiting = CommandQueue(lambda *_: b"", lambda *_: None)
    waiting.offer(Command(name, b"{}"))
    assert waiting._waiting.empty()
    assert "can't be part of a topic" in caplog.text


def test_a_retained_command_through_the_nucleus_never_runs() -> None:
    from concurrent.futures import Future

    from awsiot.greengrasscoreipc import model

    from edge_agent.runtime.host.greengrass import SOCKET, Greengrass

    heard: List[bytes] = []
    streams: List[Any] = []

    class Recording(Greengrass):
        def _call(self, *words: Any, **more: Any) -> Any:
            streams.extend(word for word in words if hasattr(word, "on_stream_event"))
            return Future()

    greengrass = Recording({SOCKET: "/nowhere"}, lambda _why: None)
    greengrass.subscribe("c/+", lambda _topic, payload: heard.append(payload), lambda: None)
    for retain, body in ((True, b"retained"), (False, b"live"), (None, b"older SDK")):
        message = model.MQTTMessage(topic_name="c/hmi", payload=body, retain=retain)
        streams[0].on_stream_event(model.IoTCoreMessage(message=message))
    assert heard == [b"live", b"older SDK"]


# The rule


@pytest.mark.parametrize("command", ["start", "stop", "set-threshold"])
def test_what_changes_something_needs_a_time(commands: RemoteCommands, command: str) -> None:
    more = {"threshold": 0.5} if command == "set-threshold" else {}
    said = refused(ask(commands, json.dumps({"command": command, "model": "plates", **more})))
    assert f"INVALID_ARGUMENT The command {command} needs the current time" in said
    assert '"time": "2026-01-31T12:00:00Z"' in said


def test_who_has_no_clock_may_be_allowed(device: Device, clock: Clock) -> None:
    commands = commands_of(device, clock, require_time=False)
    assert ask(commands, stop())["ok"]
    assert "DEADLINE_EXCEEDED" in refused(ask(commands, stop(time=1.0)))


def test_reading_needs_no_time(commands: RemoteCommands) -> None:
    for text in ('{"command": "describe"}', '{"command": "describe", "time": 1}'):
        assert ask(commands, text)["ok"]


@pytest.mark.parametrize("away_s", [-86_400.0, -40.0, 40.0, 86_400.0])
def test_a_time_too_far_from_now_is_refused_and_both_clocks_are_named(
    device: Device, commands: RemoteCommands, away_s: float
) -> None:
    for when in (time.time() + away_s, iso(-away_s)):
        said = refused(ask(commands, stop(time=when)))
        assert "DEADLINE_EXCEEDED" in said
        assert "results.commands.expire_s" in said
        assert "This device's clock shows 2" in said
    assert state(device) is ModelState.RUNNING


@pytest.mark.parametrize("away_s", [-20.0, 0.0, 20.0])
def test_clocks_may_differ_by_less(commands: RemoteCommands, away_s: float) -> None:
    assert ask(commands, stop(time=time.time() + away_s))["ok"]


@pytest.mark.parametrize(
    "when",
    ['"yesterday"', '"2026-01-31T12:00:00"', '""', '"Z"', "true", "[]", "{}", "NaN", "Infinity",
     "-Infinity", "1e400", '"' + "9" * 50 + '"', '"0001-01-01T00:00:00+23:59"', "1" * 400, "1e308",
     '"\\ud800"'],
)  # fmt: skip
def test_what_is_no_time_runs_nothing(device: Device, commands: RemoteCommands, when: str) -> None:
    text = stop(time="?").replace('"?"', when)
    assert ask(commands, text)["ok"] is False
    assert "INTERNAL" not in refused(ask(commands, text))
    assert state(device) is ModelState.RUNNING


def test_the_default_is_half_a_minute() -> None:
    assert CommandsSettings().expire_s == 30.0


def test_a_replay_is_known_as_long_as_its_time_would_pass(
    device: Device, commands: RemoteCommands, clock: Clock
) -> None:
    """Also of a command whose time was in the future; in another spelling, too."""
    at = time.time() + 25.0
    assert ask(commands, stop(time=at, id=7))["ok"]
    device.detector.start("plates")
    device.wait("plates", ModelState.RUNNING)
    for ahead_s in (0.0, 20.0, 40.0, 54.0, 56.0, 100.0):
        clock.ahead_s = ahead_s
        text = json.dumps({"id": 7, "time": at, "model": "plates", "command": "stop"}, indent=2)
        assert ask(commands, text)["ok"] is False
    assert state(device) is ModelState.RUNNING


def test_two_commands_of_one_second_differ_by_their_ids(commands: RemoteCommands) -> None:
    at = time.time()
    assert ask(commands, stop(time=at, id=1))["ok"]
    assert "FAILED_PRECONDITION" in refused(ask(commands, stop(time=at, id=2)))


def test_what_is_remembered_is_bounded_and_nothing_passes_twice_for_it(
    commands: RemoteCommands, clock: Clock
) -> None:
    at = time.time()
    for number in range(MOST_REMEMBERED):
        ask(commands, stop(time=at, id=number))
    assert "RESOURCE_EXHAUSTED" in refused(ask(commands, stop(time=at, id="one more")))
    assert "ALREADY_EXISTS" in refused(ask(commands, stop(time=at, id=0)))
    clock.ahead_s = 61.0
    assert "FAILED_PRECONDITION" in refused(ask(commands, stop(time=time.time() + 61.0)))
    assert len(commands._replay_guard._seen["hmi"]) == 1


def test_strangers_leave_nothing_behind(commands: RemoteCommands) -> None:
    for number in range(1000):
        assert "PERMISSION_DENIED" in refused(ask(commands, stop(time=time.time()), f"x{number}"))
    assert not commands._replay_guard._seen
