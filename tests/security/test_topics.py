"""No name widens a topic, breaks it, or ends the device's connection."""

from __future__ import annotations

from concurrent.futures import Future
from pathlib import Path
from typing import Any, Dict, List

import pytest

from edge_agent.config import GreengrassSettings, ResultsSettings, load
from edge_agent.errors import InvalidConfiguration
from edge_agent.runtime.host.greengrass import SOCKET
from edge_agent.runtime.results import topics
from edge_agent.runtime.results.greengrass import LocalSink
from edge_agent.runtime.results.mqtt import MqttSink
from edge_agent.runtime.results.sink import Message, MessageRejected
from edge_agent.runtime.results.sinks import thing_name
from tests.runtime.results.mqtt_sinks import settings

BAD_NAMES = [
    "#",
    "+",
    "a/b",
    "a#",
    "/",
    "a\nb",
    "a\x00",
    "\x9b31m",
    "{model}",
    "$SYS",
    "\u202e",
]
TEMPLATES = ["mqtt.topic", "mqtt.state_topic", "greengrass.topic", "greengrass.local_topic",
             "commands.topic", "commands.response_topic"]  # fmt: skip


def results(tree: Dict[str, Any], thing: str = "press-7") -> ResultsSettings:
    given: Dict[str, Any] = {"folder": "/x", "thing": thing, "commands": {"allow": {"hmi": ()}}}
    for name, value in tree.items():
        group, key = name.split(".")
        given.setdefault(group, {})[key] = value
    given.setdefault("mqtt", {}).setdefault("endpoint", "localhost")
    return ResultsSettings.model_validate(given)


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_things_name_that_breaks_topics_ends_the_start_with_a_sentence(name: str) -> None:
    with pytest.raises(InvalidConfiguration, match=r"Set results\.thing") as caught:
        thing_name(results({}, name))
    assert str(caught.value).isprintable()
    said = str(caught.value)
    assert "which comes from results.thing," in said
    assert any(f"it has the character {each!r}" in said for each in name) or name == "$SYS"


@pytest.mark.parametrize("name", BAD_NAMES[:5])
def test_so_does_one_of_the_environment(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_IOT_THING_NAME", name)
    with pytest.raises(InvalidConfiguration, match="AWS_IOT_THING_NAME"):
        thing_name(results({}, ""))


def test_names_as_things_have_them_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("press-7", "Cell:4_b", "host.plant.example", "Presse 7", "プレス"):
        assert thing_name(results({}, name)) == name
    monkeypatch.setenv("AWS_IOT_THING_NAME", "a/b")
    for unpublished in (ResultsSettings(), ResultsSettings(folder=Path("/x"), lines="-")):
        assert thing_name(unpublished) == "a/b"


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("text", ["a\nb", "a\x1b[31m", "a/+", "a/#", "a\x85", "{nothing}"])
def test_a_template_with_a_wildcard_or_a_control_character_is_refused_where_it_is_read(
    template: str, text: str
) -> None:
    with pytest.raises(InvalidConfiguration, match=f"results.{template}") as caught:
        load(None, {}, ["results.folder=/x", f"results.{template}={text}"])
    named = any(f"it has the character {each!r}" in str(caught.value) for each in text)
    assert named or text[0] == "{"  # which is read as a group of settings


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        ({"mqtt.topic": "$SYS/{thing}"}, "mqtt.topic: .* with \\$ at the start"),
        ({"greengrass.local_topic": "cell/*"}, "greengrass.local_topic: .* a wildcard"),
        ({"mqtt.client_id": "a\0"}, r"mqtt.client_id: .* has the character '\\x00'"),
        (
            {"mqtt.endpoint": "x.iot.us-east-1.amazonaws.com", "mqtt.client_id": "c" * 129},
            "mqtt.client_id: .* has 129 bytes; AWS IoT Core allows 128",
        ),
        (
            {"mqtt.endpoint": "x.iot.us-east-1.amazonaws.com", "thing": "t" * 240},
            "mqtt.topic: .* 1 to 256 .* The name of the thing in it, of results.thing, has 240",
        ),
    ],
)
def test_other_names_that_a_broker_would_refuse_are_named_at_the_start(
    tree: Dict[str, Any], words: str
) -> None:
    thing = tree.pop("thing", "press-7")
    with pytest.raises(InvalidConfiguration, match=f"results.{words}"):
        thing_name(results(tree, thing))


def test_the_default_client_id_of_a_core_device_is_measured_as_well(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    at_aws = {"mqtt.endpoint": "x.iot.us-east-1.amazonaws.com", "mqtt.topic": "a"}
    assert thing_name(results(at_aws, "t" * 120))
    monkeypatch.setenv(SOCKET, "/ipc.socket")
    with pytest.raises(InvalidConfiguration, match=r"131 bytes.* default, made of results\.thing"):
        thing_name(results(at_aws, "t" * 120))
    assert thing_name(results({**at_aws, "mqtt.client_id": "press-7"}, "t" * 120))


@pytest.mark.parametrize("template", [each for each in TEMPLATES if "local" not in each])
def test_a_topic_is_measured_with_everything_in_it(template: str) -> None:
    """AWS IoT Core disconnects the device on over 256 bytes, or over 7 slashes."""
    at_aws = {"mqtt.endpoint": "x-ats.iot.eu-central-1.amazonaws.com"}
    for topic in ("{thing}/" + "ü" * 80, "a/b/c/d/e/f/g/h/{thing}"):
        with pytest.raises(InvalidConfiguration, match=f"results.{template}: the topic"):
            thing_name(results({**at_aws, template: topic}, "t" * 128))


@pytest.mark.parametrize("template", ["mqtt.state_topic", "commands.topic"])
def test_a_name_that_isnt_filled_in_is_refused(template: str) -> None:
    with pytest.raises(InvalidConfiguration, match="isn't known here"):
        thing_name(results({template: "{thing}/{model}"}))


def test_a_plants_own_broker_takes_longer_topics() -> None:
    long = "a/b/c/d/e/f/g/h/{thing}/{model}"
    assert thing_name(results({"mqtt.topic": long, "greengrass.topic": "a"}))
    assert thing_name(results({"greengrass.local_topic": long}))


BAD_MODELS = ["bolts\n", "a/#", "+", "\x1b[31m", "{thing}"]


def message(model: str) -> Message:
    return Message("id", model, "result", "normal", b"{}")


@pytest.mark.parametrize("model", BAD_MODELS)
def test_a_models_name_that_breaks_the_topic_rejects_its_event_alone(
    model: str, tmp_path: Path
) -> None:
    sink = MqttSink(settings(1), "press-7")
    with pytest.raises(MessageRejected, match="can't be published"):
        sink.send(message(model))
    asked: List[str] = []

    class Nucleus:
        def publish_locally(self, topic: str, _payload: bytes) -> Future[None]:
            asked.append(topic)
            return Future()

    local = LocalSink(GreengrassSettings(local_topic="{thing}/{model}"), "t", Nucleus())  # type: ignore[arg-type]
    with pytest.raises(MessageRejected, match="can't be published"):
        local.send(message(model))
    assert not asked


def test_an_event_whose_topic_would_end_the_connection_to_aws_is_not_sent() -> None:
    given = settings(1).model_copy(
        update={"endpoint": "x.iot.us-east-1.amazonaws.com", "ca": Path("/x")}
    )
    sink = MqttSink(given, "t" * 128)
    with pytest.raises(MessageRejected, match="1 to 256 are possible"):
        sink.send(message("m" * 128))


def test_a_value_is_filled_in_once() -> None:
    """A thing called {model} took the place of the model."""
    assert topics.fill("{thing}/{model}", {"thing": "{model}", "model": "bolts"}) == "{model}/bolts"
    assert topics.fill("a{b}{model}c{", {"model": "m"}) == "a{b}mc{"
