"""Running MQTT sinks for tests."""

from __future__ import annotations

import json
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable, Iterator, Optional

import pytest

from edge_agent.config import MqttSettings
from edge_agent.runtime.results.mqtt import MqttSink
from edge_agent.runtime.results.sink import Message
from tests.fakes import broker

THING = "press-7"
STATE = f"edge-agent/{THING}/state"
Answer = Callable[[str, bytes], bytes]

needs_mosquitto = pytest.mark.skipif(
    broker.MISSING, reason="mosquitto and mosquitto-clients aren't installed (scripts/setup)"
)


def settings(
    port: int, keys: Optional[Path] = None, name: str = "client", **more: Any
) -> MqttSettings:
    """Settings for a broker on this machine, with the client certificate `name`."""
    values = {"endpoint": "localhost", "port": port}
    if keys:
        values.update(
            certificate=keys / f"{name}.pem", key=keys / f"{name}.key", ca=keys / "ca.pem"
        )
    return MqttSettings(**{**values, **more})


class Running:
    """A started sink; `ready` counts how often it said so."""

    def __init__(self, given: MqttSettings, answer: Optional[Answer] = None):
        self.sink = MqttSink(given, THING)
        if answer:
            self.sink.serve_commands(
                "edge-agent/{thing}/commands", "edge-agent/{thing}/responses", answer
            )
        self.ready = threading.Semaphore(0)
        self.sink.start(self.ready.release)

    def wait_until_ready(self) -> None:
        assert self.ready.acquire(timeout=60), self.sink.problem

    def await_problem(self, words: str, within_s: float = 60.0) -> str:
        end = time.monotonic() + within_s
        while words not in self.sink.problem:
            assert time.monotonic() < end, f"{self.sink.problem!r} doesn't say {words!r}"
            time.sleep(0.02)
        return self.sink.problem


@contextmanager
def running(
    given: MqttSettings, answer: Optional[Answer] = None, connected: bool = True
) -> Iterator[Running]:
    """Yield a sink, connected or not, and stop it."""
    started = Running(given, answer)
    try:
        if connected:
            started.wait_until_ready()
        yield started
    finally:
        started.sink.stop(5.0)


def message(number: int = 1, model: str = "caps", size: int = 0) -> Message:
    body = json.dumps({"number": number, "filling": "x" * size}).encode()
    return Message(f"id-{number}", model, "result", "normal", body)
