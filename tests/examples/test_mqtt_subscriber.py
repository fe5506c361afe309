"""The MQTT subscriber between a real mosquitto and a real agent."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Iterator

import pytest

from tests.contract.calls import plain
from tests.examples.conftest import ENVIRONMENT, EXAMPLES
from tests.fakes import broker, micro
from tests.fakes.agent import Agent
from tests.fakes.broker import Broker

pytestmark = pytest.mark.skipif(
    broker.MISSING, reason="mosquitto and mosquitto-clients aren't installed (scripts/setup)"
)


@pytest.fixture
def mosquitto(tmp_path: Path) -> Iterator[Broker]:
    folder = tmp_path / "broker"
    folder.mkdir()
    with Broker(folder) as running:
        yield running


@pytest.fixture
def printed(mosquitto: Broker) -> Iterator[Iterator[str]]:
    """The lines of the example, from the one that says it has subscribed."""
    words = [sys.executable, str(EXAMPLES / "mqtt_subscriber.py"), "--port", str(mosquitto.port)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT) as process:
        assert process.stdout is not None
        lines = (line.rstrip("\n") for line in process.stdout)
        try:
            assert next(lines) == "subscribed to edge-agent/+/+/+"
            yield lines
        finally:
            process.kill()


def test_it_prints_what_an_agent_publishes(
    tmp_path: Path, mosquitto: Broker, printed: Iterator[str]
) -> None:
    settings = {
        "results.folder": tmp_path / "state", "results.thing": "press-4",
        "results.mqtt.endpoint": "localhost", "results.mqtt.port": mosquitto.port,
        "results.outbox.commit_every_s": 0.05,
    }  # fmt: skip
    assignments = [
        word for name, value in settings.items() for word in ("--set", f"{name}={value}")
    ]
    agent = Agent(tmp_path, *assignments)
    micro.write(agent.models / "bolts", "anomaly_map")
    with agent:
        agent.run("bolts")
        with agent.client() as client:
            client.detect("bolts", plain(255))
            client.detect("bolts", plain(0))
        lines = [next(printed).split() for _ in range(2)]
    assert [(model, verdict) for model, _, verdict in lines] == [
        ("bolts", "ANOMALY"),
        ("bolts", "normal"),
    ]


def test_a_result_that_comes_twice_is_printed_once(
    mosquitto: Broker, printed: Iterator[str]
) -> None:
    def publish(kind: str, **event: object) -> None:
        mosquitto.publish(f"edge-agent/press-4/bolts/{kind}", json.dumps(event))

    first = {"id": "a", "model": "bolts", "sequence": 1, "is_anomalous": True}
    for event in (first, first, {**first, "id": "b", "sequence": 2}):
        publish("result", **event)
    publish("alarm", id="c", message="The scores have moved.")
    assert [next(printed) for _ in range(3)] == [
        "bolts 1: ANOMALY",
        "bolts 2: ANOMALY",
        "alarm: The scores have moved.",
    ]
