"""Results under fire: broker and agent are killed again and again; every result must arrive.

`python -m tests.runtime.results.soak --results 100000 --broker-kills 10 --agent-kills 5` is the
long form of the test in `test_soak.py`.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
import time
from collections import defaultdict
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable, Dict, List, Set

import numpy as np

from edge_agent.client import Client
from edge_agent.errors import EdgeAgentError
from edge_agent.types import ModelState
from tests.fakes import broker, certificates, micro
from tests.fakes.agent import Agent
from tests.runtime.results.watcher import watching

THING = "press-7"
MODELS = ("bolts", "nuts")
CAMERAS = 4
# Else the broker itself drops what a subscriber hasn't fetched yet.
BROKER = ("max_queued_messages 0", "max_inflight_messages 0")


class Subscriber:
    """What the watcher sees; knows what came first and how often."""

    def __init__(self) -> None:
        self.sequences: Dict[str, List[int]] = defaultdict(list)  # by model, first arrivals
        self.ids: Set[str] = set()
        self.bodies: Dict[str, str] = {}
        self.duplicates = self.altered = self.late = 0

    def take(self, event: Dict[str, object]) -> None:
        id_, sequence = str(event["id"]), int(str(event["sequence"]))
        self.late += "late" in event
        if id_ in self.ids:
            self.duplicates += 1
            self.altered += self.bodies[id_] != f"{event['model']} {sequence}"
            return
        self.ids.add(id_)
        self.bodies[id_] = f"{event['model']} {sequence}"
        self.sequences[str(event["model"])].append(sequence)

    def overtaken(self) -> int:
        """How often a result came before an earlier one of its model."""
        return sum(
            later < earlier
            for numbers in self.sequences.values()
            for earlier, later in zip(numbers, numbers[1:])
        )


@dataclass
class Line:
    """The cameras: what they were answered."""

    wanted: int
    ids: Set[str] = field(default_factory=set)
    refused: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def inspect(self, address: str, number: int) -> None:
        random = np.random.default_rng(number)
        while len(self.ids) < self.wanted:
            try:
                with Client(address, 5.0, camera_id=f"camera-{number}") as client:
                    while len(self.ids) < self.wanted:
                        pixels = random.integers(0, 255, (64, 64, 3)).astype(np.uint8)
                        verdict = client.detect(MODELS[number % 2], pixels)
                        with self.lock:
                            self.ids.add(verdict.result_id)
            except EdgeAgentError:
                self.refused += 1  # the agent is down or loads its models
                time.sleep(0.05)


@dataclass
class Report:
    """What came of it."""

    answered: int
    missing: int
    unanswered: int  # published though the agent died before it answered
    duplicates: int
    altered: int
    overtaken: int
    late: int
    seconds: float
    undelivered_after_s: float


def make_agent(folder: Path, server: broker.Broker, keys: Path) -> Agent:
    settings = {
        "results.folder": folder / "state", "results.thing": THING,
        "results.mqtt.endpoint": "localhost", "results.mqtt.port": server.port,
        "results.mqtt.certificate": keys / "client.pem", "results.mqtt.key": keys / "client.key",
        "results.mqtt.ca": keys / "ca.pem", "results.outbox.drain_per_s": 5000,
        "log_level": "INFO",
    }  # fmt: skip
    words = [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
    agent = Agent(folder, "--autostart", *words)
    for model in MODELS:
        micro.write(agent.models / model, "classification")
    return agent


def soak(
    folder: Path,
    results: int,
    broker_kills: int,
    agent_kills: int,
    say: Callable[[str], None] = lambda text: None,
) -> Report:
    """Kill at even distances; returns once everything has arrived, or nothing does for long."""
    keys = certificates.every(folder)
    (folder / "broker").mkdir()
    server = broker.Broker(folder / "broker", keys)
    with (folder / "broker" / "broker.conf").open("a") as conf:
        conf.write("\n".join(BROKER) + "\n")
    began = time.monotonic()
    with ExitStack() as stack:
        stack.enter_context(server)
        arrived = Subscriber()
        topic = f"edge-agent/{THING}/+/result"
        stack.enter_context(watching(server, topic, arrived.take))
        agent = stack.enter_context(make_agent(folder, server, keys))
        for model in MODELS:
            agent.wait_for(model, ModelState.RUNNING)
        line = Line(results)
        cameras = [
            threading.Thread(target=line.inspect, args=(agent.address, number))
            for number in range(CAMERAS)
        ]
        for camera in cameras:
            camera.start()
        kills = broker_kills + agent_kills
        agents = {round((n + 0.5) * kills / agent_kills) for n in range(agent_kills)}
        for kill in range(kills):
            while len(line.ids) < results * (kill + 1) // (kills + 1):
                time.sleep(0.01)
            if kill in agents:
                agent.kill()
                agent.start()
            else:
                _end(server)
                time.sleep(0.5)
                server.start()
            say(f"{'agent' if kill in agents else 'broker'} killed at {len(line.ids)} results")
        for camera in cameras:
            camera.join()
        answered_at = time.monotonic()
        say(f"{len(line.ids)} answered, {len(arrived.ids)} arrived")
        _wait_while_it_helps(lambda: len(line.ids - arrived.ids))
        done = time.monotonic()
    return Report(
        len(line.ids),
        len(line.ids - arrived.ids),
        len(arrived.ids - line.ids),
        arrived.duplicates,
        arrived.altered,
        arrived.overtaken(),
        arrived.late,
        done - began,
        done - answered_at,
    )


def _end(server: broker.Broker) -> None:
    """With SIGTERM: mosquitto then saves what it has acknowledged, which kill -9 makes it lose."""
    assert server.process is not None
    server.process.terminate()
    server.process.wait(60)


def _wait_while_it_helps(missing: Callable[[], int], patience_s: float = 90.0) -> None:
    # A loaded machine may need several attempts to connect, up to 60 s apart.
    left, since = missing(), time.monotonic()
    while left and time.monotonic() - since < patience_s:
        time.sleep(0.1)
        now = missing()
        if now != left:
            left, since = now, time.monotonic()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--results", type=int, default=100_000)
    parser.add_argument("--broker-kills", type=int, default=10)
    parser.add_argument("--agent-kills", type=int, default=5)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:

        def say(text: str) -> None:
            sys.stdout.write(text + "\n")

        say(str(soak(Path(folder), given.results, given.broker_kills, given.agent_kills, say)))


if __name__ == "__main__":
    main()
