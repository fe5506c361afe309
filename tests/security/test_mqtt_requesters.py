"""Requesters over MQTT: each gets what is allowed to its name, on its own topic, and no more.

A requester is the last level of the topic it publishes on; the names here try to be another's.
"""

from __future__ import annotations

import contextlib
import json
import queue
from pathlib import Path
from typing import Any, Dict, Iterator, List

import pytest

from edge_agent.types import ModelState
from tests.fakes import micro
from tests.fakes.agent import Agent
from tests.fakes.broker import Broker, Listener, Received
from tests.runtime.results.mqtt_sinks import needs_mosquitto

pytestmark = needs_mosquitto

THING = "press-7"
COMMANDS, RESPONSES = f"edge-agent/{THING}/commands", f"edge-agent/{THING}/responses"
ALLOW = {"hmi": ["describe"], "board": ["start", "stop", "describe"]}
DESCRIBE = {"command": "describe", "model": "plates"}


class Line:
    """An agent with the model plates, whose commands come over a broker of this machine."""

    def __init__(self, folder: Path, broker: Broker) -> None:
        self.broker = broker
        settings = (
            "results.mqtt.endpoint=127.0.0.1", f"results.mqtt.port={broker.port}",
            f"results.folder={folder / 'state'}", f"results.thing={THING}",
            f"results.commands.allow={json.dumps(ALLOW)}",
        )  # fmt: skip
        self.agent = Agent(folder, *(word for value in settings for word in ("--set", value)))
        micro.write(self.agent.models / "plates", "classification")

    def ask(self, requester: str, *words: str, **command: Any) -> None:
        self.broker.publish(f"{COMMANDS}/{requester}", json.dumps(command), *words)

    def state(self) -> str:
        with self.agent.client() as client:
            return client.describe("plates").state.name


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Line]:
    with Broker(tmp_path_factory.mktemp("broker")) as broker:
        line = Line(tmp_path_factory.mktemp("agent"), broker)
        with line.agent, broker.listener(f"edge-agent/{THING}/state") as state:
            line.agent.run("plates")
            line.agent.wait_for("plates", ModelState.RUNNING)
            while "online" not in state.next().payload:
                pass
            with broker.listener(f"{RESPONSES}/board") as ready:  # it has subscribed
                _until_answered(line, ready)
            yield line
            assert line.agent.stop() == 0


def _until_answered(line: Line, ready: Listener) -> None:
    for _ in range(20):
        line.ask("board", **DESCRIBE)
        with contextlib.suppress(queue.Empty):
            ready.next(1.0)
            return
    raise AssertionError(line.agent.log())


def answers(listener: Listener, line: Line) -> List[Received]:
    """All that came until the answer to one more command of board's, which comes last."""
    line.ask("board", **DESCRIBE, id="last")
    found: List[Received] = []
    while True:
        found.append(listener.next())
        if json.loads(found[-1].payload)["id"] == "last":
            return found[:-1]


NAMES: Dict[str, str] = {
    "empty": "",
    "space": " ",
    "hmi and a space": "hmi ",
    "capitals": "Board",
    "a letter that looks like it": "b\N{CYRILLIC SMALL LETTER O}ard",
    "wide letters": "\uff42\uff4f\uff41\uff52\uff44",
    "an accent besides": "board\u0301",
    "a letter without width": "board\u200b",
    "right to left": "\u202edraob",
    "system": "$SYS",
    "shared": "$share",
    "a dot": ".",
    "a quote": 'board"',
    "JSON": '{"a":1}',
    "a dictionary's own": "__class__",
    "long": "b" * 20_000,
    "null": "null",
}


@pytest.mark.parametrize("kind", NAMES)
def test_a_name_that_isnt_exactly_an_allowed_one_may_nothing(line: Line, kind: str) -> None:
    """Exactly: not its look, not its folding, not its normal form."""
    with line.broker.listener(f"{RESPONSES}/#") as everything:
        for command in ({"command": "stop", "model": "plates"}, DESCRIBE):
            line.ask(NAMES[kind], **command, id=kind)
        found = answers(everything, line)
    assert {entry.topic for entry in found} <= {f"{RESPONSES}/{NAMES[kind]}"}
    for entry in found:
        answer = json.loads(entry.payload)
        assert answer["error"]["status"] == "PERMISSION_DENIED"
        assert "plates" not in entry.payload
    assert line.state() == "RUNNING"


@pytest.mark.parametrize("topic", ["board/more", "a/board", "/board", "board/", "$SYS/board", "//"])
def test_levels_below_a_requester_are_heard_by_nobody(line: Line, topic: str) -> None:
    with line.broker.listener(f"{RESPONSES}/#") as everything:
        line.ask(topic, command="stop", model="plates", id="deep")
        assert answers(everything, line) == []
    assert line.state() == "RUNNING"


@pytest.mark.parametrize("topic", ["other/commands/board", f"edge-agent/{THING}/responses/board"])
def test_what_comes_on_other_topics_is_no_command(line: Line, topic: str) -> None:
    with line.broker.listener(f"{RESPONSES}/hmi") as hmi:
        line.broker.publish(topic, json.dumps({"command": "stop", "model": "plates"}))
        line.ask("hmi", **DESCRIBE)
        assert json.loads(hmi.next().payload)["ok"]
    assert line.state() == "RUNNING"


def test_a_requester_has_its_own_commands_only(line: Line) -> None:
    with line.broker.listener(f"{RESPONSES}/hmi") as hmi:
        line.ask("hmi", command="stop", model="plates")
        refused = json.loads(hmi.next().payload)
        assert refused["error"]["status"] == "PERMISSION_DENIED"
        line.ask("hmi", **DESCRIBE)
        assert json.loads(hmi.next().payload)["model"]["state"] == "RUNNING"


def test_an_answer_goes_to_the_requesters_topic_whatever_it_asks_for(line: Line) -> None:
    """MQTT 5 lets a request name another topic for its answer: that of another requester."""
    wanted = f"{RESPONSES}/board"
    with line.broker.listener("#") as everything:
        line.ask("hmi", "-D", "publish", "response-topic", wanted, **DESCRIBE, id="mine")
        line.ask("hmi", "-D", "publish", "response-topic", "plant/alarm", **DESCRIBE, id="mine")
        line.ask("board", **DESCRIBE, id="last")
        found: List[Received] = []
        while not found or '"last"' not in found[-1].payload or RESPONSES not in found[-1].topic:
            found.append(everything.next())
    topics = [entry.topic for entry in found if '"mine"' in entry.payload]
    assert [topic for topic in topics if topic.startswith(RESPONSES)] == [f"{RESPONSES}/hmi"] * 2
    assert {topic for topic in topics if not topic.startswith(COMMANDS)} == {f"{RESPONSES}/hmi"}


def test_no_requester_learns_what_another_asked(line: Line) -> None:
    """Neither ids nor correlation data nor refusals reach another's topic."""
    with line.broker.listener(f"{RESPONSES}/hmi") as hmi, line.broker.listener(
        f"{RESPONSES}/stranger"
    ) as stranger:
        line.ask("board", "-D", "publish", "correlation-data", "secret-c", **DESCRIBE, id="secret")
        line.ask("board", command="describe", model="secret-model", id="secret")
        line.ask("stranger", **DESCRIBE, id="strange")
        line.ask("hmi", **DESCRIBE, id="end")
        received = [hmi.next(), stranger.next()]
        assert hmi.nothing_more()
        assert stranger.nothing_more()
    assert [json.loads(entry.payload)["id"] for entry in received] == ["end", "strange"]
    assert all("secret" not in "".join(map(str, entry)) for entry in received)


def test_a_flood_of_strangers_keeps_no_requester_from_its_answer_afterwards(line: Line) -> None:
    """Each with a name of its own; what is too much is dropped, and forgotten."""
    assert line.agent.process is not None
    before = line.agent.resident_bytes()
    for number in range(150):
        line.ask(f"stranger-{number}-{'x' * 1000}", command="stop", model="plates")
    with line.broker.listener(f"{RESPONSES}/hmi") as hmi:
        for _ in range(20):
            line.ask("hmi", **DESCRIBE, id="after")
            with contextlib.suppress(queue.Empty):
                assert json.loads(hmi.next(1.0).payload)["ok"]
                break
        else:
            raise AssertionError(line.agent.log()[-3000:])
    assert line.agent.resident_bytes() - before < 50 * 1024 * 1024
    assert line.state() == "RUNNING"
