"""What pip installs: the version, the dependencies of each extra, and the client alone.

A program that only talks to the agent installs `edge-agent` without an extra: one distribution, not
two, as two that both hold the package `edge_agent` would overwrite each other's files.
"""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import sysconfig
from email.message import Message
from email.parser import HeaderParser
from functools import lru_cache
from pathlib import Path
from typing import Dict, Iterator, List, Set
from zipfile import ZipFile

import pytest
from packaging.requirements import Requirement

import edge_agent
from edge_agent.packaging.agent.artifact import build_wheel
from edge_agent.packaging.bom import normalised
from tests import ROOT
from tests.examples.conftest import EXAMPLES, camera
from tests.fakes import micro
from tests.fakes.agent import Agent
from tests.packaging.agent.tiny_agent import BASE

pytestmark = pytest.mark.timeout(300)  # the index may be slow
PACKAGE = ROOT / "edge_agent"
# Distributions whose modules have other names.
DISTRIBUTIONS = {
    "google": "protobuf", "grpc": "grpcio", "grpc_health": "grpcio-health-checking",
    "grpc_reflection": "grpcio-reflection", "cv2": "opencv-python-headless", "yaml": "pyyaml",
    "awsiot": "awsiotsdk",
    # These come with the others, in the release that those name.
    "awscrt": "awsiotsdk", "pydantic_core": "pydantic", "botocore": "boto3",
}  # fmt: skip
# Installed by nobody but the system (docs/gpu.md), or into a throw-away environment.
NEVER = {"tensorrt", "mlserver", "litserve", "fastapi", "pytriton"}
LIGHT = {"grpcio", "numpy", "protobuf"}
PROGRAM = """
import importlib.util, json, sys
import numpy as np
from edge_agent.client import Client, images
from edge_agent.errors import EdgeAgentError

frame = np.zeros((64, 64, 3), np.uint8)
frame[..., 0] = 255
with Client(sys.argv[1]) as agent:
    scores = [agent.detect("bolts", frame, way).score for way in ("bytes", "shared_memory")]
    scores += [answer.prediction.score for answer in agent.stream("bolts", [frame])]
try:
    images.load("part.png")
except EdgeAgentError as error:
    sentence = str(error)
there = [name for name in sys.argv[2:] if importlib.util.find_spec(name)]
print(json.dumps({"scores": scores, "there": there, "sentence": sentence}))
"""


def modules(path: Path) -> Set[str]:
    """Top-level modules of others that a file imports, also inside functions."""
    found: Set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return {name for name in found if name != "edge_agent" and not of_python(name)}


@lru_cache(maxsize=None)
def of_python(name: str) -> bool:
    if name in sys.builtin_module_names or name == "__future__":
        return True
    folder = Path(sysconfig.get_paths()["stdlib"])
    compiled = (folder / "lib-dynload").glob(f"{name}.*")
    return (folder / name).is_dir() or (folder / f"{name}.py").is_file() or any(compiled)


def declared() -> Set[str]:
    """Names of all distributions in pyproject.toml, which CPython 3.8 can't parse."""
    text = (ROOT / "pyproject.toml").read_text()
    part = text.partition("dependencies = [")[2].partition("[project.scripts]")[0]
    named = (re.match(r"[A-Za-z0-9_-]+", entry) for entry in part.split('"')[1::2])
    return {normalised(match.group()) for match in named if match}


def test_every_library_that_is_imported_is_declared() -> None:
    known = declared()
    for path in PACKAGE.rglob("*.py"):
        for name in modules(path) - NEVER:
            distribution = normalised(DISTRIBUTIONS.get(name, name))
            assert distribution in known, f"{path.relative_to(ROOT)} imports {name}"


def test_the_version_stands_in_one_place() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    assert 'dynamic = ["version"]' in text
    assert 'version = { attr = "edge_agent.__version__" }' in text
    assert not re.search(r'^version = "', text, re.MULTILINE)


def test_files_that_must_repeat_the_version_have_the_right_one() -> None:
    (component,) = json.loads((ROOT / "gdk-config.json").read_text())["component"].values()
    assert component["version"] == edge_agent.__version__
    changes = (ROOT / "CHANGELOG.md").read_text()
    (newest, *_) = re.findall(r"^## \[?(\d+\.\d+\.\d+)", changes, re.MULTILINE)
    assert newest == edge_agent.__version__
    for page in (ROOT / "docs").glob("*.md"):
        for version in re.findall(r"EdgeAgent=(\S+)", page.read_text()):
            assert version == edge_agent.__version__, page.name


# the wheel, built and installed from the package index


def pip(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pip", *words, "--quiet", "--disable-pip-version-check"],
        capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    done = pip("download", "setuptools", "--no-deps", "--dest", str(folder / "index"))
    if done.returncode:
        pytest.skip(f"no package index answers: {done.stderr[-300:]}")
    return build_wheel(ROOT, folder)


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Message:
    with ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return HeaderParser().parsestr(archive.read(name).decode())


def needs(metadata: Message, extra: str = "") -> Set[str]:
    """All that pip chooses for `edge-agent[extra]`, extras of extras with it."""
    found: Set[str] = set()
    for text in metadata.get_all("Requires-Dist") or []:
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
            name = normalised(requirement.name)
            found.add(name)
            if name == "edge-agent":
                found.update(*(needs(metadata, inner) for inner in requirement.extras))
    return found - {"edge-agent"}


def test_the_wheel_has_the_packages_version(metadata: Message) -> None:
    assert metadata["Version"] == edge_agent.__version__


def test_without_an_extra_it_needs_what_the_client_imports_and_no_more(metadata: Message) -> None:
    assert needs(metadata) == LIGHT


def test_every_extra_brings_what_a_device_needs(metadata: Message) -> None:
    device = needs(metadata, "device")
    assert {"pydantic", "opencv-python-headless", "awsiotsdk"} <= device
    extras: List[str] = metadata.get_all("Provides-Extra") or []
    assert {"device", "cpu", "gpu", "jetson", "train", "package", "publish"} <= set(extras)
    for extra in extras:
        assert device <= needs(metadata, extra), extra
        assert extra == "device" or device < needs(metadata, extra), f"{extra} is dead"


@pytest.fixture(scope="module")
def light(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A fresh environment with the wheel and what pip takes from the index for it."""
    folder = tmp_path_factory.mktemp("light") / "venv"
    subprocess.run([BASE, "-m", "venv", "--without-pip", str(folder)], check=True, timeout=60)
    python = str(folder / "bin" / "python")
    limits = ["-c", str(ROOT / "requirements" / "jetson.txt")] if sys.version_info < (3, 9) else []
    done = pip("--python", python, "install", "--no-compile", str(wheel), *limits)
    assert done.returncode == 0, done.stderr
    return python


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    """A whole agent, run by the tests' own environment."""
    running = Agent(tmp_path_factory.mktemp("agent"))
    micro.write(running.models / "bolts", "anomaly_map")
    with running:
        running.run("bolts")
        yield running


def run(light: str, *words: str, frames: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """Run `light` with nothing of this checkout in sight."""
    environment: Dict[str, str] = {"PATH": os.environ["PATH"]}
    return subprocess.run(
        [light, *words], input=frames, env=environment, cwd=str(Path(light).parent),
        capture_output=True, timeout=60, check=False,
    )  # fmt: skip


def test_the_client_alone_judges_over_bytes_and_shared_memory(light: str, agent: Agent) -> None:
    heavy = ("cv2", "pydantic", "onnxruntime", "awsiot", "rich", "prometheus_client", "grpc_health")
    done = run(light, "-c", PROGRAM, agent.address, *heavy)
    assert done.returncode == 0, done.stderr.decode()
    said = json.loads(done.stdout)
    assert said["scores"] == [1.0, 1.0, 1.0]
    assert said["there"] == []
    assert "pip install opencv-python-headless" in said["sentence"]


@pytest.mark.parametrize("name", ["camera_bytes.py", "camera_shared_memory.py"])
def test_the_camera_loops_run_with_the_client_alone(light: str, agent: Agent, name: str) -> None:
    words = ["--address", agent.address, "--model", "bolts", "--width", "64", "--height", "64"]
    done = run(light, str(EXAMPLES / name), *words, frames=camera(255))
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == b"frame 0: ANOMALY, score 1.000\n"


@pytest.mark.parametrize(
    "line", ["serve", "models list", "detect part.png", "train images --out bolts", "doctor"]
)
def test_a_command_says_what_to_install(light: str, line: str) -> None:
    done = run(light, "-m", "edge_agent", *line.split())
    assert done.returncode == 2
    assert b"isn't installed" in done.stderr
    assert b"pip install 'edge-agent[cpu]'" in done.stderr
    assert b"Traceback" not in done.stderr
