from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Dict, List, Tuple

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
        ("server.socket=tcp://host", "run/edge-agent.sock (it is 'tcp://host', from"),
        ("server.socket=unix://relative", "absolute path"),
        ("server.socket=unix:///" + "x" * 120, "at most 107"),
        ("server.socket=~/agent.sock", "such as unix:///run/edge-agent.sock"),
        ("server.socket_mode=999", "expected three digits of 0 to 7, such as 0660 (it is '999'"),
        ("server.metrics=8080", "server.metrics: expected HOST:PORT, such as localhost:8080"),
        ("server.tcp=", "or no such setting (it is '', from"),
        ("server.tcp=[::1]:80:80", "such setting (it is '[::1]:80:80', from"),
        ("results.summary=25:00", "expected none, hour, or times of day, such as"),
        ("server.tcp=0.0.0.0:50051", "plaintext only on localhost"),
        ("server.tcp=[::]:50051", "plaintext only on localhost"),
        ("server.tls_key=/k", "belong together"),
        ("server.tls_client_ca=/c", "needs tls_certificate"),
        ("engine", "expected NAME=VALUE"),
        ("engine=5", "a group of settings is expected, an object with keys of these: backends"),
        ("log_level.deep=1", "log_level.deep"),
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


KUBERNETES = {  # what it sets in every container for a service called edge-agent
    "EDGE_AGENT_PORT": "tcp://10.0.0.1:8080",
    "EDGE_AGENT_PORT_8080_TCP": "tcp://10.0.0.1:8080",
    "EDGE_AGENT_PORT_8080_TCP_ADDR": "10.0.0.1",
    "EDGE_AGENT_SERVICE_HOST": "10.0.0.1",
    "EDGE_AGENT_SERVICE_PORT": "8080",
    "EDGE_AGENT_SERVICE_PORT_GRPC": "8080",
    "EDGE_AGENT_SERVER": "tcp://10.0.0.3:80",
    "EDGE_AGENT_RESULTS_MQTT_PORT": "tcp://10.0.0.2:1883",  # of edge-agent-results-mqtt
}


def test_variables_of_others_are_ignored_and_named(caplog: pytest.LogCaptureFixture) -> None:
    others = {**KUBERNETES, "EDGE_AGENT_HOME": "/opt", "EDGE_AGENT_": "x"}
    assert load(None, {**others, "EDGE_AGENT_LOG_LEVEL": "DEBUG"}) == Settings(log_level="DEBUG")
    (line,) = [record.getMessage() for record in caplog.records]
    assert all(name in line for name in others)
    assert not any(value in line for value in ("10.0.0.1", "/opt"))
    assert "EDGE_AGENT_LOG_LEVEL" not in line


def test_a_setting_with_single_underscores_is_refused_with_the_right_name() -> None:
    with pytest.raises(InvalidConfiguration, match="EDGE_AGENT_MODELS__TRUSTED_KEYS, with two"):
        load(None, {"EDGE_AGENT_MODELS_TRUSTED_KEYS": "/keys.pem"})


@pytest.mark.parametrize(
    ("environment", "assignments", "words"),
    [
        ({"EDGE_AGENT_ENGINE__THREADS": "many"}, [],
         ["engine.threads: ", "(it is 'many', from EDGE_AGENT_ENGINE__THREADS in the"]),
        ({"EDGE_AGENT_SEVER__TCP": "localhost:1"}, [], ["sever: unknown key",
         "(from EDGE_AGENT_SEVER__TCP in the environment)"]),
        ({"EDGE_AGENT_ENGINE": "docker"}, [], ["engine: ", "(from EDGE_AGENT_ENGINE in"]),
        ({"EDGE_AGENT_ENGINE__BACKENDS": "onnxruntime,cuda"}, [], ["it is 'cuda', from EDGE_"]),
        ({"EDGE_AGENT_MODELS": "/x"}, ["models.folder=/y"],
         ["--set models.folder", "value of models from EDGE_AGENT_MODELS in the environment"]),
        ({}, ["decision.camera_problem=no", "decision.camera_problem.dark=refuse"],
         ["the value of decision.camera_problem from --set decision.camera_problem: "]),
        ({}, ["server.tcp=[::1]:80", "server.metrics=localhost:080"], ["another port than tcp"]),
        ({}, ["server.tcp=localhost:80", "server.metrics=0.0.0.0:80"], ["another port than tcp"]),
        ({}, ["engine.threads=many"], ["(it is 'many', from --set engine.threads)"]),
        ({}, ["server.tls_key=/k"], ["belong together", "(from --set server.tls_key)"]),
        ({"EDGE_AGENT_ENGINE__THREADS": "1"}, ["engine.threads=x"], ["from --set engine.threads)"]),
        ({"EDGE_AGENT_RESULTS__MQTT__PKCS11_PIN_FILE": "/f", "EDGE_AGENT_RESULTS__MQTT__QOS": "7"},
         [], ["results.mqtt.qos: ", "it is '7', from EDGE_AGENT_RESULTS__MQTT__QOS"]),
    ],
)  # fmt: skip
def test_a_wrong_value_is_named_with_where_it_came_from(
    environment: Dict[str, str], assignments: List[str], words: List[str]
) -> None:
    with pytest.raises(InvalidConfiguration) as caught:
        load(None, environment, assignments)
    assert all(word in str(caught.value) for word in words), caught.value


def test_one_word_for_a_group_holds_for_what_is_not_set_by_itself(tmp_path: Path) -> None:
    file = tmp_path / "settings.json"
    file.write_text(json.dumps({"decision": {"camera_problem": "report"}}))
    found = load(file, {}, ["decision.camera_problem.frozen=refuse"]).decision.camera_problem
    assert (found.frozen, found.black) == ("refuse", "report")


def test_one_port_of_two_addresses_of_the_machine_may_be_used_twice() -> None:
    settings = load(None, {}, ["server.tcp=localhost:80", "server.metrics=10.0.0.1:80"])
    assert settings.server.metrics == "10.0.0.1:80"


def test_a_wrong_value_of_a_file_is_named_with_the_file(tmp_path: Path) -> None:
    file = tmp_path / "settings.json"
    file.write_text(json.dumps({"engine": {"threads": "many", "spinning": True}}))
    with pytest.raises(InvalidConfiguration, match=rf"it is 'many', from {file}\)$"):
        load(file, {"EDGE_AGENT_ENGINE__SPINNING": "no"})


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("onnxruntime", ("onnxruntime",)),
        ("tensorrt, onnxruntime", ("tensorrt", "onnxruntime")),
        ('["tensorrt", "onnxruntime"]', ("tensorrt", "onnxruntime")),
        ("", ()),
    ],
)
def test_a_list_may_be_written_with_commas_or_as_json(text: str, names: Tuple[str, ...]) -> None:
    assert load(None, {"EDGE_AGENT_ENGINE__BACKENDS": text}).engine.backends == names
    assert load(None, {}, [f"engine.backends={text}"]).engine.backends == names


def test_a_list_inside_a_table_may_be_written_with_commas() -> None:
    words = ["results.mqtt.endpoint=b", "results.folder=/x"]
    settings = load(None, {}, ["results.commands.allow.hmi=describe,start", *words])
    assert settings.results.commands.allow == {"hmi": ("describe", "start")}


def test_a_tilde_is_the_home_folder_wherever_it_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    file = tmp_path / "settings.json"
    file.write_text(json.dumps({"results": {"folder": "~/results", "thing": "~"}}))
    settings = load(file, {"EDGE_AGENT_MODELS__FOLDER": "~/models"}, ["engine.cache=~"])
    assert (settings.results.folder, settings.results.thing) == (tmp_path / "results", "~")
    assert (settings.models.folder, settings.engine.cache) == (tmp_path / "models", tmp_path)


def test_a_tilde_without_a_home_folder_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(os, "getuid", lambda: 54321)
    with pytest.raises(InvalidConfiguration, match=r"is '~/x'.*HOME isn't set.*\(user 54321\)"):
        load(None, {}, ["models.folder=~/x"])


@pytest.mark.parametrize(
    ("written", "host"),
    [
        ("a.B.example", "a.b.example"), (" a.b/ ", "a.b"), ("[::1]", "::1"), ("fe80::1", "fe80::1"),
        ("192.0.2.7", "192.0.2.7"), ("", ""),
    ],
)  # fmt: skip
def test_the_brokers_name_is_taken_as_people_write_it(written: str, host: str) -> None:
    assert load(None, {"EDGE_AGENT_RESULTS__FOLDER": "/x"}, [
        f"results.mqtt.endpoint={written}"
    ]).results.mqtt.endpoint == host  # fmt: skip


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("https://a.b", "without https://: write 'a.b'"),
        ("MQTTS://a.b:8883/", "without mqtts://: write 'a.b'"),
        ("a.b:8883", "write 'a.b', and the port into results.mqtt.port"),
        ("[::1]:8883", "write '::1', and the port into results.mqtt.port"),
        ("a.b/mqtt", "a host name is expected"),
        ("mqtts://user:secret@a.b", "without mqtt://, user, password or path"),
        ("a b", "a host name is expected"),
        ("/", "a host name is expected"),
    ],
)
def test_an_address_that_is_no_host_name_is_refused_with_what_to_write(
    written: str, words: str
) -> None:
    with pytest.raises(InvalidConfiguration, match=re.escape(words)) as caught:
        load(None, {}, ["results.folder=/x", f"results.mqtt.endpoint={written}"])
    assert "secret" not in str(caught.value)
