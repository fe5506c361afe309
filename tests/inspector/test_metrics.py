"""The Prometheus endpoint."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import urllib.request
from pathlib import Path
from typing import Dict, Set

import pytest

from tests.contract.calls import INVALID_ARGUMENT, NOT_FOUND, Caller, plain, refused, striped, until
from tests.fakes import micro
from tests.fakes.agent import Agent
from tests.fakes.broker import free_port
from tests.inspector.test_metadata import STAGES


def scrape(port: int) -> Dict[str, float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as reply:
        lines = reply.read().decode().splitlines()
    pairs = [line.rpartition(" ") for line in lines if not line.startswith("#")]
    return {name: float(value) for name, _, value in pairs}


def test_frames_are_counted_under_the_originals_names(tmp_path: Path) -> None:
    port = free_port()
    agent = Agent(tmp_path, "--set", f"server.metrics=127.0.0.1:{port}")
    micro.write(agent.models / "cls", "classification")
    with agent, agent.channel() as channel:
        caller = Caller(channel)
        caller.run("cls")
        for red in (255, 255, 10):
            caller.detect("cls", striped(red))
        broken = caller.messages.Bitmap(width=64, height=64, byte_data=b"short")
        refused(INVALID_ARGUMENT, caller.detect, "cls", broken)
        refused(NOT_FOUND, caller.detect, "no-such-model", plain(1))

        def value(name: str, **labels: str) -> float:
            inside = ",".join(f'{key}="{labels[key]}"' for key in sorted(labels))
            return scrape(port).get(f"edge_agent_{name}{{{inside}}}", 0.0)

        until(lambda: value("ProcessedImageCount_total", model="cls") == 3)
        assert value("SuccessfulRequestCount_total", model="cls") == 3
        assert value("DetectedAnomalyCount_total", model="cls") == 2
        assert value("InvalidImageCount_total", model="cls") == 1
        assert value("ErrorCount_total", model="cls", status="INVALID_ARGUMENT") == 1
        assert value("ErrorCount_total", model="", status="NOT_FOUND") == 1
        for name in ("InService", "Desired", "Min", "Max"):
            assert value(f"{name}InferenceUnits", model="cls") == 1
        for stage in (*STAGES, "total"):
            assert value("Time_count", model="cls", stage=stage) == 3
        assert value("Time_sum", model="cls", stage="total") > 0


def test_a_model_that_is_removed_has_no_inference_units_but_its_counts(tmp_path: Path) -> None:
    port = free_port()
    agent = Agent(tmp_path, "--set", f"server.metrics=127.0.0.1:{port}")
    for name in ("cls", "other"):
        micro.write(agent.models / name, "classification")

    def units() -> Set[str]:
        return {name for name in scrape(port) if "InferenceUnits" in name}

    with agent, agent.channel() as channel:
        caller = Caller(channel)
        caller.run("cls")
        caller.detect("cls", striped(255))
        until(lambda: 'edge_agent_ProcessedImageCount_total{model="cls"}' in scrape(port))
        assert len(units()) == 8
        shutil.rmtree(agent.models / "cls")
        until(lambda: len(units()) == 4)
        assert all('model="other"' in name for name in units())
        assert scrape(port)['edge_agent_ProcessedImageCount_total{model="cls"}'] == 1


def test_frames_with_camera_problems_are_counted_as_such_and_not_as_anomalies(
    tmp_path: Path,
) -> None:
    port = free_port()
    agent = Agent(tmp_path, "--set", f"server.metrics=127.0.0.1:{port}")
    micro.write(agent.models / "any", "classification", decision={"threshold": 0.0})
    with agent, agent.channel() as channel:
        caller = Caller(channel)
        caller.run("any")
        for frame in (striped(50), 0 * plain(0), 0 * plain(0), plain(50)):
            assert caller.detect("any", frame).is_anomalous
        expected = {
            'SuccessfulRequestCount_total{model="any"}': 4,
            'ProcessedImageCount_total{model="any"}': 4,
            'DetectedAnomalyCount_total{model="any"}': 1,
            'CameraProblemCount_total{model="any",problem="black"}': 2,
            'CameraProblemCount_total{model="any",problem="blank"}': 1,
        }
        until(lambda: scrape(port).get('edge_agent_ProcessedImageCount_total{model="any"}') == 4)
        found = scrape(port)
        assert {name: found.get(f"edge_agent_{name}") for name in expected} == expected


def test_the_agent_listens_on_no_port_unless_asked_to(agent: Agent) -> None:
    assert agent.process is not None
    folder = Path(f"/proc/{agent.process.pid}")
    lines = (folder / "net/tcp").read_text().splitlines()[1:]
    listening = {f"socket:[{line.split()[9]}]" for line in lines if line.split()[3] == "0A"}
    own = {os.readlink(descriptor) for descriptor in (folder / "fd").iterdir()}
    assert not listening & own


@pytest.mark.parametrize("address", ["0.0.0.0", "localhost:http"])
def test_a_wrong_address_is_named(tmp_path: Path, address: str) -> None:
    agent = Agent(tmp_path, "--set", f"server.metrics={address}")
    done = subprocess.run(agent.command(), capture_output=True, text=True, timeout=30)
    assert done.returncode == 2
    assert "server.metrics" in done.stderr


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        agent = Agent(tmp_path, "--set", f"server.metrics={address}")
        done = subprocess.run(agent.command(), capture_output=True, text=True, timeout=30)
    assert done.returncode == 2
    assert f"server.metrics: Can't listen on {address}" in done.stderr
    assert not agent.socket.exists()
