from __future__ import annotations

import json
import os
import platform
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Dict

import pytest

from edge_agent.cli import main
from edge_agent.config import GreengrassSettings, ResultsSettings
from edge_agent.doctor import PROBLEM, agent, machine
from edge_agent.runtime.system import resources
from tests.fakes import certificates, micro
from tests.fakes.broker import Broker
from tests.runtime.results.mqtt_sinks import needs_mosquitto


def test_the_doctor_names_what_is_here_and_what_is_missing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    main(["doctor", "--json"])
    found = {line["what"]: line for line in map(json.loads, capsys.readouterr().out.splitlines())}
    assert set(found) >= {
        "CPU", "memory", "Python", "onnxruntime", "onnxruntime providers", "GPU", "CUDA",
        "TensorRT", "shared memory", "groups", "Greengrass",
    }  # fmt: skip
    assert found["onnxruntime"]["state"] == "ok"
    assert "CPUExecutionProvider" in found["onnxruntime providers"]["detail"]
    assert found["Greengrass"]["state"] == "missing"


def test_the_doctor_notices_wheels_that_overwrite_each_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Not installed side by side for real: that would break the environment of all other tests.
    versions = {"onnxruntime": "1.0", "onnxruntime-gpu": "1.0"}
    monkeypatch.setattr(machine, "_version", versions.get)
    (result,) = machine.package_conflicts()
    assert result.state == PROBLEM
    assert "onnxruntime and onnxruntime-gpu overwrite each other" in result.detail
    monkeypatch.setattr(machine, "_version", {"onnxruntime": "1.0"}.get)
    assert machine.package_conflicts() == []


@pytest.mark.parametrize(
    ("cpuinfo", "board", "name"),
    [
        ("processor\t: 0\nmodel name\t: Intel(R) N100\nmodel\t\t: 190\n", "", "Intel(R) N100"),
        (
            "CPU implementer\t: 0x41\nCPU part\t: 0xd42\n",
            "NVIDIA Jetson AGX Orin\0",
            "NVIDIA Jetson AGX Orin, Cortex-A78AE",
        ),
        ("CPU implementer : 0x4E\nCPU part : 0x004\n", "", "NVIDIA Carmel"),
        ("CPU implementer\t: 0x61\nCPU part\t: 0x022\n", "", "CPU part 0x022 of implementer 0x61"),
        ("processor\t: 0\n", "Some Board\0", "Some Board"),
        ("", "", platform.machine()),
    ],
)
def test_the_processor_is_named_on_arm_as_well(
    tmp_path: Path, cpuinfo: str, board: str, name: str
) -> None:
    for file, text in (("proc/cpuinfo", cpuinfo), ("sys/firmware/devicetree/base/model", board)):
        if text:
            (tmp_path / file).parent.mkdir(parents=True)
            (tmp_path / file).write_text(text)
    assert machine.processor(tmp_path) == name


def test_the_doctor_tells_what_it_may_use_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "cores", lambda: 1)
    monkeypatch.setattr(resources, "memory_bytes", lambda: 512 * 1024 * 1024)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    cpu, memory, _ = machine.hardware()
    assert "8 cores, " in cpu.detail
    assert "this process may use 1 of them" in cpu.detail
    assert "this process may use 512 MiB of it" in memory.detail


def results(capsys: pytest.CaptureFixture[str], *words: str) -> Dict[str, Any]:
    main(["doctor", "--json", *words])
    return {line["what"]: line for line in map(json.loads, capsys.readouterr().out.splitlines())}


def mqtt(folder: Path, port: int, **changes: str) -> str:
    """Write a settings file with a broker on this machine."""
    names = {"certificate": "client.pem", "key": "client.key", "ca": "ca.pem", **changes}
    files = {name: str(folder / file) for name, file in names.items()}
    settings = {"results": {"folder": str(folder), "mqtt": {"endpoint": "localhost", **files}}}
    settings["results"]["mqtt"]["port"] = port  # type: ignore[index]
    (folder / "settings.json").write_text(json.dumps(settings))
    return str(folder / "settings.json")


@needs_mosquitto
def test_the_doctor_tries_the_broker_of_the_settings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = certificates.every(tmp_path)
    (keys / "client.key").chmod(0o640)
    with Broker(tmp_path, keys) as broker:
        found = results(capsys, "--config", mqtt(tmp_path, broker.port))
        assert found["MQTT broker"]["state"] == "ok"
        assert found["MQTT broker"]["detail"] == f"connected to localhost:{broker.port} with TLS"
        assert found["MQTT key"]["state"] == "ok"
        file = mqtt(tmp_path, broker.port, certificate="expired.pem", key="expired.key")
        found = results(capsys, "--config", file)
        assert found["MQTT broker"]["state"] == "problem"
        assert "expired.pem has expired" in found["MQTT broker"]["detail"]
    found = results(capsys, "--config", mqtt(tmp_path, broker.port))
    assert "Nothing listens" in found["MQTT broker"]["detail"]


def test_the_doctor_names_files_that_are_missing_and_a_key_that_all_can_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    certificates.every(tmp_path)
    (tmp_path / "client.key").chmod(0o644)
    found = results(capsys, "--config", mqtt(tmp_path, 1, ca="none.pem"))
    assert f"{tmp_path / 'none.pem'} can't be read" in found["MQTT broker"]["detail"]
    assert found["MQTT key"]["state"] == "problem"
    assert "chmod o= " in found["MQTT key"]["detail"]


def test_the_doctor_names_settings_that_cannot_be_used(capsys: pytest.CaptureFixture[str]) -> None:
    found = results(capsys, "--set", "results.mqtt.endpoint=a.b", "--set", "results.folder=/x")
    assert "only for a broker on localhost" in found["MQTT broker"]["detail"]
    found = results(capsys, "--set", "results.mqtt.tipic=x")
    assert found["settings"]["state"] == "problem"
    assert "tipic: unknown key" in found["settings"]["detail"]
    assert "MQTT broker" not in results(capsys)


def test_the_doctor_names_a_wrong_clock_and_a_name_that_no_topic_can_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent, "time", SimpleNamespace(time=lambda: 5.0))
    greengrass = GreengrassSettings(topic="a/{thing}")
    found = agent.results(ResultsSettings(folder=tmp_path, thing="a#b", greengrass=greengrass))
    details = {each.what: (each.state, each.detail) for each in found}
    assert details["clock"][0] == "problem"
    assert "it shows 1970-01-01 00:00 UTC" in details["clock"][1]
    assert details["topics"][0] == "problem"
    assert "'a#b', which comes from results.thing" in details["topics"][1]


@pytest.mark.parametrize(
    ("status", "what", "state", "words"),
    [
        (
            {"sinks": {"mqtt": {"trouble": "No network.", "waiting": 12, "since": "2030-01-01"}}},
            "results to mqtt",
            "problem",
            "No network. 12 results wait since 2030-01-01",
        ),
        ({"sinks": {"lines": {"trouble": "", "waiting": 0}}}, "results to lines", "ok", "0 wait"),
        (
            {"sinks": {}, "agent": {"nucleus": {"trouble": "It is away.", "since": "2030-01-01"}}},
            "agent's nucleus",
            "problem",
            "It is away. (since 2030-01-01)",
        ),
        ({"sinks": 7}, "results", "problem", "isn't in the agent's format"),
    ],
)
def test_the_doctor_tells_what_the_agent_last_said_of_its_results(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    status: Dict[str, Any],
    what: str,
    state: str,
    words: str,
) -> None:
    (tmp_path / "status.json").write_text(json.dumps({"outbox": {"trouble": ""}, **status}))
    found = results(capsys, "--set", f"results.folder={tmp_path}")
    assert found[what]["state"] == state
    assert words in found[what]["detail"]


def test_the_doctor_lists_what_serves_and_what_does_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, records = tmp_path / "models", tmp_path / "models.d"
    for name in ("bolts", "bolts.bak", "cups", "plates"):
        micro.write(folder / name, "classification")
    (folder / "plates" / "model.onnx").unlink()
    records.mkdir()
    record = {"model_component": "cups", "package": str(folder / "cups")}
    (records / "cups.json").write_text(json.dumps(record))
    (records / "half.json").write_text("{")

    words = ("--set", f"models.folder={folder}", "--set", f"models.records={records}")
    found = results(capsys, *words)
    for what, state, detail in (
        ("model bolts", "ok", f"served from {folder / 'bolts'}"),
        ("model plates", "problem", "model.onnx is missing"),
        ("models: bolts.bak", "missing", "put aside"),
        ("models: half.json", "problem", "is ignored"),
        ("models: cups", "problem", f"served from {records / 'cups.json'}"),
    ):
        assert found[what]["state"] == state
        assert detail in found[what]["detail"]
