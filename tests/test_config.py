from __future__ import annotations

import json
from pathlib import Path

import pytest

from edge_agent.config import Settings, load
from edge_agent.errors import InvalidConfiguration


def test_later_sources_win_file_then_environment_then_command_line(tmp_path: Path) -> None:
    file = tmp_path / "settings.json"
    file.write_text(json.dumps({"engine": {"threads": 1, "queue_length": 7, "spinning": True}}))
    environment = {"EDGE_AGENT_ENGINE__THREADS": "2", "EDGE_AGENT_ENGINE__QUEUE_LENGTH": "8"}
    settings = load(file, environment, ["engine.threads=3"])
    engine = settings.engine
    assert (engine.threads, engine.queue_length, engine.spinning) == (3, 8, True)


def test_nothing_given_means_the_contracts_socket_and_no_tcp() -> None:
    settings = load(None, {"PATH": "/bin", "HOME": "/"})
    assert settings == Settings()
    assert settings.server.socket == "unix:///tmp/aws.iot.lookoutvision.EdgeAgent.sock"
    assert settings.server.tcp is None


@pytest.mark.parametrize(
    ("text", "value"),
    [("true", True), ("True", True), ("1", True), ("false", False), ("False", False), ("0", False)],
)
def test_a_boolean_may_be_written_as_a_word(text: str, value: bool) -> None:
    assert load(None, {"EDGE_AGENT_MODELS__AUTOSTART": text}).models.autostart is value


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        ("engine.treads=1", "engine.treads: unknown key; known here: backends"),
        ("nothing=1", "nothing: unknown key; known here: decision, engine, log_level"),
        ("engine.threads=many", "engine.threads"),
        ("models.autostart=perhaps", "perhaps"),
        ("server.socket=tcp://host", "unix://"),
        ("server.socket=unix://relative", "absolute path"),
        ("server.socket=unix:///" + "x" * 120, "at most 107"),
        ("server.socket_mode=999", "server.socket_mode"),
        ("server.tcp=0.0.0.0:50051", "plaintext only on localhost"),
        ("server.tcp=[::]:50051", "plaintext only on localhost"),
        ("server.tls_key=/k", "belong together"),
        ("server.tls_client_ca=/c", "needs tls_certificate"),
        ("engine", "expected NAME=VALUE"),
        ("engine=5", "engine"),
        ("log_level.deep=1", "log_level"),
    ],
)
def test_a_wrong_setting_is_named_with_what_was_expected(assignment: str, words: str) -> None:
    with pytest.raises(InvalidConfiguration) as caught:
        load(None, {}, [assignment])
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("content", "words"), [("{", "isn't JSON"), ("[1]", "one JSON object"), (None, "No such file")]
)
def test_an_unusable_file_is_named(tmp_path: Path, content: str, words: str) -> None:
    file = tmp_path / "settings.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(InvalidConfiguration, match=words) as caught:
        load(file, {})
    assert str(file) in str(caught.value)


@pytest.mark.parametrize("host", ["localhost:1", "127.0.0.1:1", "[::1]:1"])
def test_plaintext_tcp_is_allowed_on_the_loopback_address(host: str) -> None:
    assert load(None, {}, [f"server.tcp={host}"]).server.tcp == host


def test_numbers_and_whole_groups_can_be_set_on_the_command_line() -> None:
    assignments = [
        "results.mqtt.qos=0",
        'results.mqtt.qos_of_models={"bolts": 1}',
        "results.folder=/x",
        "results.mqtt.endpoint=b",
        'results.commands.allow={"hmi": ["describe"]}',
    ]
    settings = load(None, {}, assignments)

    assert settings.results.mqtt.qos == 0
    assert settings.results.mqtt.qos_of_models == {"bolts": 1}
    assert settings.results.commands.allow == {"hmi": ("describe",)}


def test_json_that_is_none_is_named_back() -> None:
    with pytest.raises(InvalidConfiguration, match="isn't JSON"):
        load(None, {}, ["results.commands.allow={hmi}"])
