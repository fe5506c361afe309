"""A real agent through each way out: a broker with TLS, and the nucleus (a fake)."""

from __future__ import annotations

import base64
import json
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Dict, Iterator, List

import cv2
import jsonschema
import numpy as np
import pytest

from edge_agent.types import ModelState
from tests.fakes import certificates, micro
from tests.fakes.agent import Agent
from tests.fakes.broker import Broker, Listener
from tests.fakes.fake_nucleus import FakeNucleus
from tests.runtime.results.mqtt_sinks import needs_mosquitto
from tests.runtime.results.outboxes import wait_until
from tests.runtime.results.test_agent import frame
from tests.runtime.results.test_event import SCHEMA

ALLOWED = ["describe", "set-threshold", "last-capture", "stop"]


def make_agent(folder: Path, settings: Dict[str, Any], **environment: str) -> Agent:
    everything = {
        "results.folder": folder / "state", "results.thing": "press-4",
        "results.outbox.commit_every_s": 0.05, **settings,
    }  # fmt: skip
    words = [word for name, value in everything.items() for word in ("--set", f"{name}={value}")]
    agent = Agent(folder, "--autostart", *words, environment=environment)
    micro.write(agent.models / "bolts", "anomaly_map")
    return agent


def inspect(agent: Agent, red: int) -> Any:
    agent.wait_for("bolts", ModelState.RUNNING)
    with agent.client() as client:
        return client.detect("bolts", frame(red))


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    return certificates.every(tmp_path)


@pytest.fixture
def broker(tmp_path: Path, keys: Path) -> Iterator[Broker]:
    (tmp_path / "broker").mkdir()
    with Broker(tmp_path / "broker", keys) as server:
        yield server


@contextmanager
def mqtt_agent(
    folder: Path, broker: Broker, keys: Path, allow: Dict[str, List[str]]
) -> Iterator[Agent]:
    mqtt = {
        "endpoint": "localhost", "port": broker.port, "certificate": str(keys / "client.pem"),
        "key": str(keys / "client.key"), "ca": str(keys / "ca.pem"),
    }  # fmt: skip
    results = {
        "folder": str(folder / "state"), "thing": "press-4", "mqtt": mqtt,
        "commands": {"allow": allow}, "capture": {"folder": str(folder / "kept")},
        "outbox": {"commit_every_s": 0.05},
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps({"results": results}))
    agent = Agent(folder, "--autostart", "--config", str(folder / "config.json"))
    micro.write(agent.models / "bolts", "anomaly_map")
    with agent:
        yield agent


def next_of(listener: Listener, key: str) -> Dict[str, Any]:
    while True:
        body: Dict[str, Any] = json.loads(listener.next().payload)
        if key in body:
            return body


@needs_mosquitto
def test_a_frame_reaches_a_subscriber_of_the_broker(
    tmp_path: Path, broker: Broker, keys: Path
) -> None:
    with broker.listener("edge-agent/press-4/#") as listener:
        with mqtt_agent(tmp_path, broker, keys, {}) as agent:
            assert next_of(listener, "state")["state"] == "online"
            verdict = inspect(agent, 220)
            received = listener.next()
            event = json.loads(received.payload)

            jsonschema.validate(event, SCHEMA)
            assert received.topic == "edge-agent/press-4/bolts/result"
            assert event["id"] == verdict.result_id
            assert event["is_anomalous"] is True
        assert next_of(listener, "state")["state"] == "offline"


@needs_mosquitto
def test_commands_over_mqtt_change_the_threshold_and_show_the_last_capture(
    tmp_path: Path, broker: Broker, keys: Path
) -> None:
    serving = mqtt_agent(tmp_path, broker, keys, {"hmi": ALLOWED})
    with broker.listener("edge-agent/press-4/responses/+") as listener, serving as agent:
        assert inspect(agent, 220).is_anomalous
        wait_until(lambda: (tmp_path / "kept" / "manifest.jsonl").exists())

        def ask(requester: str, **command: Any) -> Dict[str, Any]:
            command["time"] = datetime.now(timezone.utc).isoformat()
            broker.publish(f"edge-agent/press-4/commands/{requester}", json.dumps(command))
            answer = listener.next()
            assert answer.topic == f"edge-agent/press-4/responses/{requester}"
            return json.loads(answer.payload)

        answer = ask("hmi", command="set-threshold", model="bolts", threshold=0.97, id=7)
        assert (answer["ok"], answer["id"]) == (True, 7)
        verdict = inspect(agent, 220)
        assert verdict.threshold == pytest.approx(0.97)
        assert not verdict.is_anomalous

        capture = ask("hmi", command="last-capture", model="bolts")["capture"]
        picture = np.frombuffer(base64.b64decode(capture["thumbnail"]), np.uint8)
        assert cv2.imdecode(picture, cv2.IMREAD_COLOR).size > 0

        assert ask("hmi", command="describe")["models"][0]["state"] == "RUNNING"
        refused = ask("stranger", command="stop", model="bolts")
        assert refused["error"]["status"] == "PERMISSION_DENIED"
        assert ask("hmi", command="stop", model="bolts")["model"]["state"] == "STOPPED"

        agent.stop()
        agent.start()  # the threshold stays
        assert inspect(agent, 220).threshold == pytest.approx(0.97)


@pytest.mark.parametrize("kind", ["classic", "lite"])
def test_results_go_through_the_nucleus_and_wait_while_it_is_offline(
    tmp_path: Path, kind: Any
) -> None:
    settings = {
        "results.greengrass.topic": "edge-agent/{thing}/{model}/{kind}",
        "results.greengrass.local_topic": "cell/{model}/{verdict}",
    }
    with FakeNucleus(tmp_path / "ipc", kind) as nucleus:
        nucleus.online = False
        with make_agent(tmp_path, settings, **nucleus.environment) as agent:
            ids = [inspect(agent, red).result_id for red in (220, 60, 200)]
            nucleus.until(lambda: len(nucleus.published_locally) == 3)
            nucleus.online = True
            nucleus.until(lambda: len(nucleus.published) == 3)

    bodies = [json.loads(message.payload) for message in nucleus.published]
    assert [body["id"] for body in bodies] == ids
    assert {message.topic for message in nucleus.published} == {"edge-agent/press-4/bolts/result"}
    assert [message.topic for message in nucleus.published_locally] == [
        "cell/bolts/anomaly", "cell/bolts/normal", "cell/bolts/anomaly",
    ]  # fmt: skip


def test_an_agent_that_loses_the_nucleus_serves_on_and_loses_nothing(
    tmp_path: Path,
) -> None:
    settings = {"results.greengrass.topic": "edge-agent/{thing}/{model}/{kind}"}
    with FakeNucleus(tmp_path / "ipc") as nucleus:
        agent = make_agent(tmp_path, settings, **nucleus.environment)
        with agent:
            nucleus.online = False
            ids = [inspect(agent, 220).result_id]
            nucleus.drop()
            wait_until(lambda: "refuses this component" in agent.log())
            ids.append(inspect(agent, 220).result_id)
            agent.stop()

            nucleus.online = True
            agent.environment.update(nucleus.environment)  # a fresh token
            agent.start()
            nucleus.until(lambda: len(nucleus.published) == 2)
    assert [json.loads(message.payload)["id"] for message in nucleus.published] == ids


def test_greengrass_topics_outside_greengrass_are_refused_with_a_sentence(tmp_path: Path) -> None:
    agent = make_agent(tmp_path, {"results.greengrass.topic": "x"})

    with pytest.raises(AssertionError, match="no Greengrass nucleus started this process"):
        agent.start()
