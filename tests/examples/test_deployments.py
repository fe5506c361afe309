"""The systemd unit and the compose file: checked as files, and what they start is started.

What can't run here: systemd itself (its own checker reads the unit, where it is installed) and the
container's image, which is made for a Jetson; the commands of both run as this user, with their
folders moved into the test's.
"""

from __future__ import annotations

import configparser
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, List, Optional

import pytest
import yaml

from edge_agent import cli, config
from edge_agent.types import ModelState
from tests import ROOT
from tests.contract.calls import plain
from tests.examples.conftest import EXAMPLES
from tests.fakes import micro
from tests.fakes.agent import Agent
from tests.runtime.results.outboxes import wait_until

UNIT = EXAMPLES / "systemd" / "edge-agent.service"
CONFIGURATION = EXAMPLES / "systemd" / "config.json"
COMPOSE = EXAMPLES / "compose.yaml"
PROGRAM = "/opt/edge-agent/bin/edge-agent"
PYTHON = [sys.executable, "-m", "edge_agent"]


class Started(Agent):
    """An agent that is started by the words of an example."""

    def __init__(self, folder: Path, socket: Path, models: Path, words: List[str]) -> None:
        super().__init__(folder)
        self.socket, self.address, self.words = socket, f"unix://{socket}", words
        models.mkdir(parents=True)
        micro.write(models / "bolts", "anomaly_map")

    def command(self) -> List[str]:
        return self.words


def unit() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(UNIT.read_text())
    return parser


def moved(text: str, folder: Path) -> str:
    """Put the folders of a system into `folder`."""
    for place in ("/run/edge-agent", "/var/lib/edge-agent", "/etc/edge-agent", "/opt/models"):
        text = text.replace(place, str(folder / place.strip("/")))
    return text


def serves(agent: Started, results: Optional[Path] = None) -> None:
    with agent:
        agent.wait_for("bolts", ModelState.RUNNING)
        with agent.client() as client:
            assert client.detect("bolts", plain(255)).is_anomalous
        if results:
            wait_until(lambda: results.exists() and b'"bolts"' in results.read_bytes())
        assert agent.process is not None
        agent.process.send_signal(signal.SIGTERM)  # as systemd and docker do
        assert agent.process.wait(15) == 0


def test_the_units_command_serves_with_the_units_settings(tmp_path: Path) -> None:
    words = shlex.split(unit()["Service"]["ExecStart"])
    assert words[0] == PROGRAM
    settings = tmp_path / "etc" / "edge-agent" / "config.json"
    settings.parent.mkdir(parents=True)
    text = moved(CONFIGURATION.read_text(), tmp_path)
    settings.write_text(text.replace('"socket_group": "edge-agent"', '"socket_group": ""'))
    run, state = tmp_path / "run" / "edge-agent", tmp_path / "var" / "lib" / "edge-agent"
    run.mkdir(parents=True)
    command = [*PYTHON, *(moved(word, tmp_path) for word in words[1:])]

    serves(
        Started(tmp_path, run / "agent.sock", state / "models", command), state / "results.jsonl"
    )


def test_the_unit_makes_the_folders_that_its_settings_name() -> None:
    service = unit()["Service"]
    known = {
        f"/run/{service['RuntimeDirectory']}",
        f"/var/lib/{service['StateDirectory']}",
    }
    named = re.findall(r'"(?:unix://)?(/[^"]+)"', CONFIGURATION.read_text())
    assert named
    assert all(any(path.startswith(f"{folder}/") for folder in known) for path in named)


def test_the_unit_does_not_restart_an_agent_with_wrong_settings(tmp_path: Path) -> None:
    wrong = tmp_path / "config.json"
    wrong.write_text('{"server": {"sokcet": "unix:///run/agent.sock"}}')
    done = subprocess.run(
        [*PYTHON, "serve", "--config", str(wrong)], capture_output=True, timeout=60, check=False
    )
    assert str(done.returncode) == unit()["Service"]["RestartPreventExitStatus"]
    assert b"sokcet" in done.stderr


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd isn't installed")
def test_systemd_finds_no_fault_in_the_unit(tmp_path: Path) -> None:
    copy = tmp_path / UNIT.name
    copy.write_text(UNIT.read_text().replace(PROGRAM, "/bin/true"))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", str(copy)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


def compose() -> Dict[str, Any]:
    parsed: Dict[str, Any] = yaml.safe_load(COMPOSE.read_text())
    return parsed


def test_the_compose_file_builds_from_files_that_are_there() -> None:
    build = compose()["services"]["edge-agent"]["build"]
    context = (EXAMPLES / build["context"]).resolve()
    dockerfile = context / build["dockerfile"]
    assert context == ROOT
    arguments = re.findall(r"^ARG (\w+)", dockerfile.read_text(), re.MULTILINE)
    assert set(build["args"]) <= set(arguments)
    for line in re.findall(r"edge-agent (component build .+)", COMPOSE.read_text()):
        words = cli.parse(shlex.split(line))
        assert str(words.out) == build["args"]["COMPONENT"]


def test_the_compose_file_mounts_volumes_that_it_makes_and_that_its_command_uses() -> None:
    parsed = compose()
    service = parsed["services"]["edge-agent"]
    mounts = dict(volume.split(":")[:2] for volume in service["volumes"])
    assert {name for name in mounts if not name.startswith("/")} == set(parsed["volumes"])
    assert all(path.startswith("/") for path in mounts.values())
    words = cli.parse(shlex.split(service["command"]))
    settings = config.load(None, {}, [f"server.socket={words.socket}"])
    assert str(settings.server.socket_path.parent) in mounts.values()
    assert str(words.models) in mounts.values()
    assert "/dev/shm" in mounts.values()
    assert not {"ipc", "privileged", "user"} & set(service)  # the image's own user, no host's IPC


def test_the_compose_files_command_serves(tmp_path: Path) -> None:
    words = shlex.split(moved(compose()["services"]["edge-agent"]["command"], tmp_path))
    run = tmp_path / "run" / "edge-agent"
    run.mkdir(parents=True)
    models = tmp_path / "opt" / "models"
    serves(Started(tmp_path, run / "agent.sock", models, [*PYTHON, *words]))
