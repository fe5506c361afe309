"""Nothing phones home: no id in the home folder, no look-up, whatever the user's environment says.

onnxruntime does both from 1.29 on. Its look-up comes about ten seconds after the import, so an
agent is watched until the library alone, started later, has made its own.
"""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path
from typing import Callable, Dict, List

import onnxruntime
import pytest

from edge_agent.client import Client
from edge_agent.packaging.agent.install import STARTS
from edge_agent.types import ModelState
from tests.fakes import micro
from tests.security import watched
from tests.security.watched import Watched
from tests.training import pictures

PYTHON = sys.executable
HAS_TELEMETRY = tuple(map(int, onnxruntime.__version__.split(".")[:2])) >= (1, 29)

needs_network = pytest.mark.skipif(
    not watched.is_possible(), reason="this user may not make a network (unshare)"
)
pytestmark = pytest.mark.timeout(300)


def until(fulfilled: Callable[[], object], program: Watched, within_s: float = 90.0) -> None:
    end = time.monotonic() + within_s
    while not fulfilled():
        assert program.process.poll() is None, program.log()
        assert time.monotonic() < end, program.log()
        time.sleep(0.05)


def library_alone(folder: Path) -> Watched:
    return Watched(folder, PYTHON, "-c", "import onnxruntime, signal; signal.pause()")


@needs_network
@pytest.mark.skipif(not HAS_TELEMETRY, reason="this onnxruntime has no telemetry")
def test_an_agent_that_judges_leaves_no_id_and_looks_nothing_up(tmp_path: Path) -> None:
    package = micro.write(tmp_path / "models" / "m", "classification")
    address = f"unix://{tmp_path / 'agent.sock'}"
    agent = Watched(
        tmp_path / "agent", PYTHON, "-m", "edge_agent", "serve", "--models", str(package.parent),
        "--autostart", "--socket", address,
    )  # fmt: skip
    try:
        until((tmp_path / "agent.sock").exists, agent)
        with Client(address) as client:
            until(lambda: client.describe("m").state is ModelState.RUNNING, agent)
        alone = library_alone(tmp_path / "alone")
        try:
            until(alone.names, alone)
            assert alone.traces(), "the test doesn't see what it looks for"
        finally:
            alone.stop()
    finally:
        code = agent.stop()
    assert code == 0, agent.log()
    assert (agent.traces(), agent.names()) == ([], [])


@pytest.fixture(name="files", scope="module")
def _files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("telemetry")
    pictures.write(folder / "plates", normal=12, anomaly=4)
    micro.write(folder / "micro", "classification")
    return folder


def tool(name: str, files: Path) -> List[str]:
    """A command of every process of ours in which onnxruntime works."""
    agent = [PYTHON, "-m", "edge_agent"]
    images, model = str(files / "plates"), str(files / "micro")
    commands: Dict[str, List[str]] = {
        "train": [*agent, "train", images, "--out", "trained", "--size", "64x64"],
        "evaluate": [*agent, "evaluate", model, images],
        "package": [
            *agent, "package", model, "--target-platform", "os=LINUX,arch=X86_64", "--optimise",
            "--component-name", "plant.M", "--out", "component",
        ],
        "doctor": [*agent, "doctor"],
        "benchmark": [
            *agent, "benchmark", "--package", model, "--clients", "1", "--size", "64x64",
            "--seconds", "0.2", "--rounds", "2",
        ],
        "install": [PYTHON, *STARTS],
        "library": [PYTHON, "-c", "import edge_agent.client, onnxruntime"],
        "child": [
            PYTHON, "-c", "import edge_agent, subprocess, sys;"
            "subprocess.run([sys.executable, '-c', 'import onnxruntime'], check=True)",
        ],
    }  # fmt: skip
    return commands[name]


TOOLS = "train", "evaluate", "package", "doctor", "benchmark", "install", "library", "child"


@needs_network
@pytest.mark.parametrize("name", TOOLS)
def test_a_tool_leaves_no_id_and_looks_nothing_up(name: str, files: Path, tmp_path: Path) -> None:
    program = Watched(tmp_path, *tool(name, files))
    code = program.process.wait(240)

    assert code == 0 or name == "doctor", program.log()  # the doctor finds faults of this machine
    assert (program.traces(), program.names()) == ([], [])


def test_wherever_onnxruntime_is_imported_by_command_ours_comes_first() -> None:
    """A `python -c` is no module of ours, so nothing else turns the telemetry off in it."""
    product = Path(watched.ROOT, "edge_agent").rglob("*.py")
    commands = re.findall(
        r'"-c",\s*"(import [^"]*onnxruntime[^"]*)"', "\n".join(path.read_text() for path in product)
    )
    assert commands
    assert all(command.startswith("import edge_agent") for command in commands)
