"""The MQTT sink with a real broker, TLS and client certificates."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Iterator, List, Tuple

import pytest
from awscrt import io, mqtt5

from edge_agent import __version__
from edge_agent.runtime.results.broker.options import client_options
from edge_agent.runtime.results.broker.sdk import Sdk
from edge_agent.runtime.results.command_queue import LARGEST_BYTES
from tests.fakes import certificates
from tests.fakes.broker import Broker, FakeBroker
from tests.runtime.results.mqtt_sinks import (
    STATE,
    THING,
    message,
    needs_mosquitto,
    running,
    settings,
)

pytestmark = needs_mosquitto


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return certificates.every(tmp_path_factory.mktemp("keys"))


@pytest.fixture
def broker(tmp_path: Path, keys: Path) -> Iterator[Broker]:
    with Broker(tmp_path, keys) as started:
        yield started


def state(payload: str) -> Tuple[str, str]:
    facts = json.loads(payload)
    assert (facts["thing"], facts["version"]) == (THING, __version__)
    return facts["state"], facts.get("reason", "")


def test_a_message_arrives_with_its_id_as_json(broker: Broker, keys: Path) -> None:
    with running(settings(broker.port, keys)) as started:
        assert started.sink.problem == ""
        with broker.listener("edge-agent/+/caps/+") as listener:
            assert started.sink.send(message(7)).result(60) is None
            got = listener.next()
    assert got.topic == f"edge-agent/{THING}/caps/result"
    assert (got.qos, got.retained, got.content_type) == (1, False, "application/json")
    assert got.properties == "id:id-7"
    assert json.loads(got.payload)["number"] == 7


def test_messages_keep_their_order_through_a_full_window(broker: Broker, keys: Path) -> None:
    with running(settings(broker.port, keys)) as started, broker.listener("#") as listener:
        sent = [started.sink.send(message(number)) for number in range(started.sink.window)]
        for future in sent:
            future.result(20)
        got = [listener.next() for _ in range(len(sent) + 1)]
    numbers = [json.loads(entry.payload)["number"] for entry in got if entry.topic != STATE]
    assert numbers == list(range(100))


def test_a_model_may_have_its_own_quality_of_service(broker: Broker, keys: Path) -> None:
    given = settings(broker.port, keys, qos_of_models={"caps": 0})
    with running(given) as started, broker.listener("edge-agent/+/+/result") as listener:
        started.sink.send(message(1)).result(60)
        started.sink.send(message(2, model="lids")).result(60)
        assert [listener.next().qos for _ in range(2)] == [0, 1]


def test_the_topic_template_is_filled_in(broker: Broker, keys: Path) -> None:
    given = settings(broker.port, keys, topic="{verdict}/{kind}/{model}/{thing}")
    with running(given) as started, broker.listener("normal/#") as listener:
        started.sink.send(message()).result(60)
        assert listener.next().topic == f"normal/result/caps/{THING}"


def test_the_retained_state_says_online_and_after_a_stop_offline(
    broker: Broker, keys: Path
) -> None:
    with running(settings(broker.port, keys)) as started:
        started.sink.send(message()).result(60)  # the state went before it
        with broker.listener(STATE) as listener:
            got = listener.next()
            assert got.retained
            assert state(got.payload) == ("online", "")
    with broker.listener(STATE) as listener:
        got = listener.next()
        assert got.retained
        assert state(got.payload) == ("offline", "stopped")


CHILD = """
import sys, threading
from edge_agent.config import MqttSettings
from edge_agent.runtime.results.mqtt import MqttSink
sink = MqttSink(MqttSettings.model_validate_json(sys.argv[1]), sys.argv[2])
sink.start(lambda: print("ready", flush=True))
threading.Event().wait(100)
"""


def test_the_broker_says_offline_when_the_process_is_killed(broker: Broker, keys: Path) -> None:
    given = settings(broker.port, keys).model_dump_json(exclude={"pkcs11_pin"})
    words = [sys.executable, "-c", CHILD, given, THING]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
            with broker.listener(STATE) as listener:
                assert state(listener.next().payload) == ("online", "")
                os.kill(child.pid, signal.SIGKILL)
                assert state(listener.next().payload) == ("offline", "connection lost")
        finally:
            child.kill()


def echo(requester: str, payload: bytes) -> bytes:
    return json.dumps({"to": requester, "got": payload.decode()}).encode()


COMMANDS, RESPONSES = f"edge-agent/{THING}/commands", f"edge-agent/{THING}/responses"


def test_a_command_is_answered_on_the_topic_of_its_requester(broker: Broker, keys: Path) -> None:
    given = settings(broker.port, keys)
    with broker.listener(f"{RESPONSES}/+") as listener, running(given, echo):
        broker.publish(f"{COMMANDS}/hmi", "describe", "-D", "publish", "correlation-data", "77")
        got = listener.next()
        broker.publish(f"{COMMANDS}/scada", "start")
        assert listener.next().topic == f"{RESPONSES}/scada"
    assert got.topic == f"{RESPONSES}/hmi"
    assert (got.qos, got.content_type, got.correlation) == (1, "application/json", "77")
    assert json.loads(got.payload) == {"to": "hmi", "got": "describe"}


def test_a_retained_command_is_ignored(
    broker: Broker, keys: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broker.publish(f"{COMMANDS}/hmi", "retained", "-r")
    given = settings(broker.port, keys)
    with broker.listener(f"{RESPONSES}/+") as listener, running(given, echo):
        broker.publish(f"{COMMANDS}/hmi", "live")
        assert json.loads(listener.next().payload)["got"] == "live"
        assert listener.nothing_more()
    assert "A retained command" in caplog.text


def test_a_command_that_is_too_large_is_answered_with_an_error(broker: Broker, keys: Path) -> None:
    given = settings(broker.port, keys)
    with broker.listener(f"{RESPONSES}/+") as listener, running(given, echo):
        broker.publish(f"{COMMANDS}/hmi", "x" * (LARGEST_BYTES + 1))
        assert "4501 bytes; at most 4500" in json.loads(listener.next().payload)["error"]
        broker.publish(f"{COMMANDS}/hmi", "x" * LARGEST_BYTES)
        assert len(json.loads(listener.next().payload)["got"]) == LARGEST_BYTES


def test_a_command_sent_while_the_agent_was_away_arrives_even_if_the_broker_was_killed_too(
    broker: Broker, keys: Path
) -> None:
    given = settings(broker.port, keys)
    with broker.listener(f"{RESPONSES}/+") as listener, running(given, echo):
        broker.publish(f"{COMMANDS}/hmi", "first")
        listener.next()
    broker.publish(f"{COMMANDS}/hmi", "while away")
    broker.save()
    broker.kill()
    broker.start()
    with broker.listener(f"{RESPONSES}/+") as listener, running(given, echo):
        assert json.loads(listener.next().payload)["got"] == "while away"


def test_commands_arrive_from_a_broker_that_came_back_without_its_sessions(
    broker: Broker, keys: Path
) -> None:
    with running(settings(broker.port, keys), echo) as started:
        broker.kill()
        (broker.folder / "mosquitto.db").unlink(missing_ok=True)
        broker.start()
        started.wait_until_ready()
        with broker.listener(f"{RESPONSES}/+") as listener:
            for _ in range(20):  # the subscription may still be on its way
                broker.publish(f"{COMMANDS}/hmi", "again")
                with contextlib.suppress(queue.Empty):
                    assert json.loads(listener.next(1.0).payload)["got"] == "again"
                    return
    pytest.fail("no command arrived")


def test_commands_are_answered_one_after_another_and_too_many_are_dropped(
    broker: Broker, keys: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first, go = threading.Event(), threading.Event()
    seen: List[bytes] = []

    def slow(requester: str, payload: bytes) -> bytes:
        first.set()
        assert go.wait(60)
        seen.append(payload)
        return b"{}"

    given = settings(broker.port, keys)
    with broker.listener(f"{RESPONSES}/+") as listener, running(given, slow) as started:
        broker.publish(f"{COMMANDS}/hmi", "0")
        assert first.wait(60)
        for number in range(1, 20):
            broker.publish(f"{COMMANDS}/hmi", str(number))
        started.sink.send(message()).result(60)  # acknowledged after the commands were sent
        go.set()
        for _ in range(17):
            listener.next()
    assert seen == [str(number).encode() for number in range(17)]
    assert caplog.text.count("was dropped: 16 commands wait already") == 3


@pytest.mark.parametrize(
    ("endpoint", "flow"),
    [
        ("localhost", "NONE"),
        ("abc-ats.iot.eu-central-1.amazonaws.com", "AWS_IOT_CORE_DEFAULTS"),
        ("abc.ats.iot.cn-north-1.amazonaws.com.cn", "AWS_IOT_CORE_DEFAULTS"),
        ("amazonaws.com.example.com", "NONE"),
    ],
)
def test_only_aws_iot_core_is_spared_by_its_limits(keys: Path, endpoint: str, flow: str) -> None:
    given = settings(443, keys, endpoint=endpoint)
    options = client_options(Sdk(io, mqtt5), given, THING, None)
    assert options.extended_validation_and_flow_control_options.name == flow


def test_connect_asks_for_the_session_and_tells_nothing_about_the_software() -> None:
    with FakeBroker() as fake, running(settings(fake.port, client_id="me")):
        packet = fake.connects[0]
    flags = packet[7]
    assert not flags & 0x02, "clean start"
    assert flags & 0x2C == 0x2C, "a retained last will with QoS 1"
    assert not flags & 0xC0, "user name and password"
    assert b"SDK" not in packet
    assert b"\x11" + (86400).to_bytes(4, "big") in packet, "session expiry"
    assert b"\x00\x02me" in packet
