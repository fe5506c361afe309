"""Canaries in place of every secret: none is seen in a log, an error, a repr, ps or a recipe."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Dict, Iterator, List, Type

import pytest
from pydantic import SecretStr

from edge_agent.cli import main, parse
from edge_agent.config import (
    ENVIRONMENT_PREFIX,
    MqttSettings,
    Settings,
    build,
    load,
    secret_names,
    without_secrets,
)
from edge_agent.doctor import doctor_command
from edge_agent.errors import InvalidConfiguration
from edge_agent.fields import Strict, groups_in, is_secret
from edge_agent.runtime.engines import build_process
from edge_agent.runtime.host.configuration import settings_tree
from edge_agent.runtime.processes.child_process import ChildProcess, python_module
from edge_agent.runtime.processes.inquiry import ask
from edge_agent.runtime.results.broker import failures, probe
from tests import ROOT
from tests.fakes import certificates, micro
from tests.fakes.agent import Agent
from tests.fakes.broker import free_port

CANARY = "canary-4711-0815"
PIN = "results.mqtt.pkcs11_pin"


def secrets(kind: Type[Strict] = Settings, path: str = "") -> Iterator[str]:
    """Dotted names of every secret there is; a new one is tested as soon as it is added."""
    for name, field in kind.model_fields.items():
        if is_secret(kind, [name]):
            yield path + name
        for group in groups_in(field.annotation):
            yield from secrets(group, f"{path}{name}.")


SECRETS = sorted(secrets())


def variable(name: str) -> str:
    return ENVIRONMENT_PREFIX + name.upper().replace(".", "__")


def tree(name: str, value: Any = CANARY) -> Any:
    for part in reversed(name.split(".")):
        value = {part: value}
    return value


def error_of(*words: Any) -> str:
    with pytest.raises(InvalidConfiguration) as caught:
        load(*words)
    assert caught.value.__cause__ is None
    error = caught.value  # pydantic's own error shows the input
    assert error.__suppress_context__ or error.__context__ is None
    return str(caught.value)


def test_the_pin_is_a_secret() -> None:
    assert PIN in SECRETS


# The command line


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_on_the_command_line_is_refused_without_showing_it(name: str) -> None:
    group, _, key = name.rpartition(".")
    for assignment in (
        f"{name}={CANARY}",
        f"{group}={json.dumps({key: CANARY})}",
        f"results={json.dumps({'mqtt': {key: CANARY}})}",
        f"{name}={json.dumps({'x': CANARY})}",
    ):
        said = error_of(None, {}, [assignment])
        assert CANARY not in said
        assert "every user of this device can read a command line" in said
        assert variable(name) in said


@pytest.mark.parametrize("name", SECRETS)
@pytest.mark.parametrize("form", ["{name}:{canary}", "{name} {canary}", '{name}={{"{canary}"'])
def test_a_misspelled_assignment_doesnt_show_its_value(name: str, form: str) -> None:
    assert CANARY not in error_of(None, {}, [form.format(name=name, canary=CANARY)])


def test_the_refusal_ends_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--set", f"{PIN}={CANARY}"]) == 2
    captured = capsys.readouterr()
    assert "pkcs11_pin_file" in captured.err
    assert CANARY not in captured.err + captured.out


# Errors


@pytest.mark.parametrize("name", SECRETS)
@pytest.mark.parametrize("value", [[CANARY], {"x": CANARY}, [[{"y": CANARY}]], 4711081500])
def test_a_wrong_secret_is_not_shown(name: str, value: Any, tmp_path: Path) -> None:
    file = tmp_path / "settings.json"
    file.write_text(json.dumps(tree(name, value)))
    file.chmod(0o600)
    said = error_of(file, {})
    assert name in said
    assert CANARY not in said
    assert "4711081500" not in said


@pytest.mark.parametrize(
    "given",
    [{"results": {"mqtt": [{"pkcs11_pin": CANARY}]}}, {"results": [[{"x": CANARY}]]},
     {"results": {"mqtt": {"pkcs11_pinn": CANARY}}}, {"pkcs11_pin": CANARY},
     {"results": {"mqtt": {"pkcs11_pin": CANARY, "pkcs11_pin_file": "/x"}}}],
)  # fmt: skip
def test_a_secret_in_a_wrong_place_is_not_shown(given: Any) -> None:
    with pytest.raises(InvalidConfiguration) as caught:
        build(given, {})
    assert CANARY not in str(caught.value)


@pytest.mark.parametrize(
    "content", ['{"results": {"mqtt": {"pkcs11_pin": "CANARY"', '{"pkcs11_pin": "CANARY\udc80"}']
)
def test_a_settings_file_that_isnt_json_is_not_shown(content: str, tmp_path: Path) -> None:
    text = content.replace("CANARY", CANARY)
    file = tmp_path / "settings.json"
    file.write_bytes(text.encode("utf-8", "surrogateescape"))
    assert CANARY not in error_of(file, {})
    if "\udc80" not in text:
        assert CANARY not in error_of(None, {f"{ENVIRONMENT_PREFIX}RESULTS": text})


@pytest.mark.parametrize("endpoint", [f"mqtts://user:{CANARY}@broker", f"user:{CANARY}@broker"])
def test_a_password_in_the_endpoint_is_refused_and_not_shown(endpoint: str) -> None:
    said = error_of(None, {}, ["results.folder=/x", f"results.mqtt.endpoint={endpoint}"])
    assert "a host name is expected" in said
    assert CANARY not in said


def test_settings_never_show_a_secret() -> None:
    settings = build(tree(PIN), {})
    assert settings.results.mqtt.pkcs11_pin.get_secret_value() == CANARY
    for shown in (repr(settings), str(settings), settings.model_dump_json(), f"{settings!r}"):
        assert CANARY not in shown


def test_an_error_of_the_sdk_doesnt_show_the_pin() -> None:
    assert CANARY not in failures.settings_error(RuntimeError("AWS_ERROR_PKCS11_CKR_PIN_INCORRECT"))


@pytest.mark.parametrize("depth", [2000, 200_000])
def test_settings_nested_without_end_are_a_sentence(depth: int, tmp_path: Path) -> None:
    file = tmp_path / "settings.json"
    file.write_text('{"a":' * depth)
    error_of(file, {})
    error_of(None, {}, ["results=" + '{"a":' * depth])
    file.write_text('{"a": ' + "[" * depth + "]" * depth + "}")
    error_of(file, {})


def test_settings_of_any_size_are_read_and_told_within_bounds(tmp_path: Path) -> None:
    file = tmp_path / "settings.json"
    file.write_text(json.dumps({f"key-{number}": 1 for number in range(30_000)}))
    assert len(error_of(file, {})) < 20_000
    file.write_text(" " * 2_000_000)
    assert "over 1048576 bytes" in error_of(file, {})
    configuration = {f"Key-{number}": {"x": [number]} for number in range(30_000)}
    with pytest.raises(InvalidConfiguration) as caught:
        build(settings_tree(configuration, tmp_path), {})
    assert len(str(caught.value)) < 20_000


# Files


def test_a_settings_file_with_a_secret_that_others_can_read_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "settings.json"
    file.write_text(json.dumps(tree(PIN)))
    for mode, warned in ((0o644, True), (0o600, False), (0o640, False)):
        caplog.clear()
        file.chmod(mode)
        load(file, {})
        assert ("other users can read it: chmod o=" in caplog.text) is warned
        assert CANARY not in caplog.text
    file.write_text("{}")
    file.chmod(0o644)
    caplog.clear()
    load(file, {})
    assert not caplog.text


def test_the_pin_is_the_first_line_of_its_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "pin"
    for content in (CANARY, f"{CANARY}\n", f"{CANARY}\r\nanything"):
        file.write_text(content)
        assert probe.pin(MqttSettings(pkcs11_pin_file=file)) == CANARY
    assert "holds a PIN and can be read by others" in caplog.text
    assert probe.pin(MqttSettings(pkcs11_pin=SecretStr(CANARY))) == CANARY


def test_a_pin_file_that_isnt_there_is_named(tmp_path: Path) -> None:
    given = MqttSettings(endpoint="localhost", pkcs11_pin_file=tmp_path / "pin")
    assert f"results.mqtt.pkcs11_pin_file: {tmp_path}/pin can't be read" in probe.unusable_files(
        given
    )


# What is seen from outside


def variables() -> Dict[str, str]:
    return {variable(name): CANARY for name in SECRETS}


def test_the_doctor_shows_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    pin = tmp_path / "pin"
    pin.write_text(CANARY)
    pin.chmod(0o644)
    places = ["results.mqtt.endpoint=localhost", f"results.mqtt.port={free_port()}",
              f"results.folder={tmp_path}", "results.mqtt.certificate=/x",
              "results.mqtt.pkcs11_library=/x"]  # fmt: skip
    for more in ([], [f"results.mqtt.pkcs11_pin_file={pin}"]):
        if more:
            monkeypatch.delenv(variable(PIN))
        else:
            monkeypatch.setenv(variable(PIN), CANARY)
        for form in ([], ["--json"]):
            words = [word for place in (*places, *more) for word in ("--set", place)]
            doctor_command.run(parse(["doctor", *form, *words]))
    captured = capfd.readouterr()
    assert "every user of this device can read or change" in " ".join(
        captured.out.replace("│", " ").split()
    )
    assert CANARY not in captured.out + captured.err


def test_no_child_process_gets_a_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in variables().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SVCUID", CANARY)  # the nucleus's token
    monkeypatch.setenv("EDGE_AGENT_RESULTS", json.dumps({"mqtt": {"pkcs11_pin": CANARY}}))
    monkeypatch.setenv("EDGE_AGENT_LOG_LEVEL", "DEBUG")
    assert CANARY not in str(without_secrets(os.environ))
    assert without_secrets(os.environ)["EDGE_AGENT_LOG_LEVEL"] == "DEBUG"
    assert "PATH" in without_secrets(os.environ)
    (tmp_path / "canary_probe.py").write_text(
        "import os, sys\n"
        "from edge_agent.runtime.processes.parent import answering\n"
        "with answering() as report:\n"
        "    report({'seen': str(os.environ) + str(sys.argv)})\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}:{os.environ.get('PYTHONPATH', '')}")
    told, how = ask("canary_probe", "a probe", 60.0)
    assert told, how
    assert CANARY not in str(told)
    with ChildProcess(
        python_module(build_process.MODULE, str(tmp_path)),
        name="Build", within_s=20.0, late="", ends_within_s=1.0,
    ) as build:  # fmt: skip
        assert CANARY not in seen_of(build.pid)


def seen_of(pid: int) -> str:
    """Command line and environment, once the process is what it was started for."""
    end = time.monotonic() + 20.0
    while True:
        line = Path(f"/proc/{pid}/cmdline").read_bytes()
        if b"engines.build_process" in line or time.monotonic() > end:
            return (line + Path(f"/proc/{pid}/environ").read_bytes()).decode(errors="replace")
        time.sleep(0.01)


def descendants(pid: int) -> List[int]:
    found = [pid]
    for each in found:
        tasks = Path(f"/proc/{each}/task")
        found += [int(x) for t in tasks.iterdir() for x in (t / "children").read_text().split()]
    return found


@pytest.mark.parametrize("way", ["environment", "file", "settings"])
def test_an_agent_at_debug_shows_no_secret_in_its_log_or_its_command_lines(
    tmp_path: Path, way: str
) -> None:
    keys = tmp_path / "keys"
    keys.mkdir()
    certificates.every(keys)
    library = tmp_path / "libtoken.so"
    library.write_bytes(b"not a library")
    mqtt: Dict[str, Any] = {
        "endpoint": "localhost", "port": free_port(), "certificate": str(keys / "client.pem"),
        "ca": str(keys / "ca.pem"), "pkcs11_library": str(library),
    }  # fmt: skip
    environment: Dict[str, str] = {}
    if way == "environment":
        environment = variables()
    elif way == "settings":
        mqtt["pkcs11_pin"] = CANARY
    else:
        (tmp_path / "pin").write_text(CANARY)
        mqtt["pkcs11_pin_file"] = str(tmp_path / "pin")
    file = tmp_path / "settings.json"
    file.write_text(json.dumps({"log_level": "DEBUG", "results": {"folder": "r", "mqtt": mqtt}}))
    agent = Agent(
        tmp_path, "--config", str(file), "--set", f"results.folder={tmp_path / 'state'}",
        environment=environment,
    )  # fmt: skip
    micro.write(agent.models / "plates", "classification")
    with agent:
        agent.run("plates")
        assert agent.process is not None
        for pid in descendants(agent.process.pid):
            assert CANARY not in Path(f"/proc/{pid}/cmdline").read_text()
        end = time.monotonic() + 20.0
        while "MQTT client can't use" not in agent.log():
            assert time.monotonic() < end, agent.log()
            time.sleep(0.05)
        assert agent.stop() == 0
    assert CANARY not in agent.log()


def test_help_and_version_show_nothing_of_the_environment() -> None:
    for words in (["serve", "--help"], ["doctor", "--help"], ["version"]):
        ran = subprocess.run(
            [sys.executable, "-m", "edge_agent", *words],
            env={**os.environ, **variables()}, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert CANARY not in ran.stdout + ran.stderr


def test_a_recipe_with_a_secret_is_refused(tmp_path: Path) -> None:
    from edge_agent.packaging.agent.component import complete

    for name in SECRETS:
        with pytest.raises(InvalidConfiguration, match="must not stand in a recipe") as caught:
            complete(tree(name), "plant.Agent")
        assert CANARY not in str(caught.value)
        assert secret_names(tree(name)) == [name]
