"""The command itself, on an agent of its own and on one that runs already."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Dict, List, Set

import pytest

from edge_agent import cli
from edge_agent.types import ModelState
from tests.conftest import children
from tests.fakes import micro
from tests.fakes.agent import Agent

SMALL = ["--seconds", "0.2", "--rounds", "20", "--size", "320x240"]


@pytest.fixture(name="package", scope="module")
def _package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return micro.write(tmp_path_factory.mktemp("package") / "parts", "anomaly_map")


@pytest.fixture(name="agent", scope="module")
def _agent(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("agent")
    with Agent(folder) as agent:
        micro.write(agent.models / "parts", "anomaly_map")
        micro.write(agent.models / "resting", "anomaly_map")
        agent.wait_for("parts", ModelState.STOPPED)
        agent.wait_for("resting", ModelState.STOPPED)
        agent.run("parts")
        yield agent


@pytest.fixture(name="own", scope="module")
def _own(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Dict[str, Any]:
    """What a run on an agent of its own wrote and left behind."""
    folder = tmp_path_factory.mktemp("own")
    words = ["benchmark", "--package", str(package), "--units", "1", *SMALL]
    words += ["--clients", "2", "--rate", "40", "--html", str(folder / "page.html")]
    words += ["--json", str(folder / "report.json")]
    before = children()
    assert cli.main(words) == 0
    assert children() <= before
    return {
        "report": json.loads((folder / "report.json").read_text()),
        "page": (folder / "page.html").read_text(),
    }


def test_every_load_is_measured_beside_the_raw_engine(own: Dict[str, Any]) -> None:
    (size,) = own["report"]["sizes"]
    loads = [tuple(one["load"].values()) for one in size["measurements"]]
    assert loads == [
        ("shared_memory", 2, None),
        ("bytes", 2, None),
        ("shared_memory", 2, 40.0),
        ("bytes", 2, 40.0),
    ]
    for one in size["measurements"]:
        assert one["frames"] > 0
        assert one["failures"] == {}
        assert one["raw"]["frames"] > 0
        assert one["throughput_of_raw"] > 0
        assert one["agent"]["peak_rss_mib"] > 1
        assert {"preprocess", "compute", "postprocess", "elsewhere"} <= set(one["stages_ms"])


def test_single_calls_and_other_splits_are_measured_too(own: Dict[str, Any]) -> None:
    report = own["report"]
    single = report["sizes"][0]["single_calls"]
    added = {"shared_memory", "bytes", "bare_server"}
    assert set(single["p50_p90_p99_ms"]) == {"raw", "empty_call", *added}
    assert set(single["added_p50_ms"]) == added
    assert single["rounds"] == 20
    assert all(split["throughput_of_served_split"] > 0 for split in report["splits"])
    assert report["recommended"]["capacity_fps"] > 0


def test_the_page_is_written(own: Dict[str, Any]) -> None:
    assert own["page"].startswith("<!DOCTYPE html>")
    assert "Recommended configuration" in own["page"]


def test_a_running_agent_is_measured_through_its_socket(
    agent: Agent, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["benchmark", "--socket", agent.address, "--model", "parts", *SMALL]
    assert cli.main([*words, "--clients", "9", "--transport", "bytes", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    (one,) = report["sizes"][0]["measurements"]
    assert one["load"] == {"transport": "bytes", "clients": 9, "rate_fps": None}
    assert one["frames"] >= 9
    assert one["raw"] is None
    assert one["agent"]["cpu_s"] >= 0
    assert (report["splits"], "units" in report["recommended"]) == ([], False)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model", "nothing"], "Deployed models: parts, resting."),
        (["--model", "resting"], "Model 'resting' is STOPPED; start it first: edge-agent models"),
        ([], "--socket and --model belong together"),
    ],
)
def test_a_model_that_cannot_be_measured_is_reported(
    agent: Agent, words: List[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["benchmark", "--socket", agent.address, *words]) == 2
    assert message in capsys.readouterr().err


def test_a_socket_without_an_agent_is_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge_agent.benchmark.served.CALL_LIMIT_S", 0.5)
    address = f"unix://{tmp_path}/none.sock"
    assert cli.main(["benchmark", "--socket", address, "--model", "parts"]) == 2
    assert f"No agent answers at {address}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--clients", "0"], "--clients is '0'; expected numbers from 1 to 256"),
        (["--clients", "1,many"], "--clients is '1,many'"),
        (["--rate", "-1"], "--rate is '-1'; expected frames a second above 0"),
        (["--transport", "pigeon"], "expected some of shared_memory, bytes"),
        (["--size", "1920"], "expected WIDTHxHEIGHT"),
        (["--size", "8x8"], "expected sides of 64 to 4096"),
        (["--seconds", "0"], "--seconds is 0.0; expected 0.1 to 86400"),
        (["--units", "0"], "--units is 0; expected 1 to 86400"),
        (
            ["--html", "/no/such/page.html"],
            "its folder does not exist",
        ),
        (["--package", "/no/such/package"], "/no/such/package"),
    ],
)
def test_an_option_that_makes_no_sense_is_reported(
    words: List[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["benchmark", *(["=".join(words)] if words[0] == "--rate" else words)]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_everything_and_leaves_nothing(
    number: signal.Signals, package: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("s")  # the path of a socket is short
    command = [sys.executable, "-m", "edge_agent", "benchmark", "--package", str(package)]
    command += ["--seconds", "30", "--clients", "1", "--size", "320x240"]
    environment = {**os.environ, "TMPDIR": str(folder)}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    try:
        segments = _segments_of_jobs(process.pid)
        started = _children_of(process.pid)
        process.send_signal(number)
        assert process.wait(60) in (130, 143)
    finally:
        process.kill()
        process.wait()
    assert not any(Path(segment).exists() for segment in segments)
    assert not any(Path(f"/proc/{pid}").exists() for pid in started)
    assert {path.name for path in folder.iterdir()} <= {".ses"}  # onnxruntime's own


def _segments_of_jobs(benchmark: int) -> Set[str]:
    """Wait until raw engine and client, two processes, have their shared memory."""
    end = time.monotonic() + 90.0
    while time.monotonic() < end:
        found = {pid: _segments(pid) for pid in _children_of(benchmark)}
        if sum(bool(names) for names in found.values()) >= 2:
            return {name for names in found.values() for name in names}
        time.sleep(0.02)
    raise AssertionError(f"The jobs have no shared memory: {found}")


def _children_of(parent: int) -> List[int]:
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            if status.read_text().rpartition(")")[2].split()[1] == str(parent):
                found.append(int(status.parent.name))
        except OSError:
            continue
    return found


def _segments(pid: int) -> Set[str]:
    try:
        return set(re.findall(r"/dev/shm/edge-agent-\w+", Path(f"/proc/{pid}/maps").read_text()))
    except OSError:
        return set()
