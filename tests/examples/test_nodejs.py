"""The client in Node.js, with the libraries of the npm registry, beside a real agent."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests import ROOT
from tests.examples.conftest import EXAMPLES, camera
from tests.fakes.agent import Agent

NODE, NPM = shutil.which("node"), shutil.which("npm")
pytestmark = pytest.mark.skipif(not (NODE and NPM), reason="node and npm aren't installed")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example in a folder of its own, as its first lines say to set it up."""
    folder = tmp_path_factory.mktemp("nodejs")
    for path in (EXAMPLES / "nodejs").iterdir():
        if path.is_file():
            shutil.copy(path, folder)
    shutil.copy(ROOT / "protos" / "edge_agent.proto", folder)
    words = [str(NPM), "install", "--no-audit", "--no-fund", "--ignore-scripts"]
    try:
        done = subprocess.run(words, cwd=folder, capture_output=True, timeout=100, check=False)
    except subprocess.TimeoutExpired:
        pytest.skip("the npm registry doesn't answer")
    if done.returncode:
        pytest.skip(f"npm can't install from its registry: {done.stderr.decode()[-300:]}")
    return folder / "detect.js"


def run(program: Path, agent: Agent, model: str, red: int) -> subprocess.CompletedProcess[bytes]:
    environment = {"PATH": os.environ["PATH"], "EDGE_AGENT_ADDRESS": agent.address}
    return subprocess.run(
        [str(NODE), str(program), model, "64", "64"], input=camera(red), env=environment,
        capture_output=True, timeout=60, check=False,
    )  # fmt: skip


def verdict(program: Path, agent: Agent, red: int) -> Any:
    done = run(program, agent, "bolts", red)
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout)


def test_it_starts_the_model_and_prints_the_verdict(program: Path, agent: Agent) -> None:
    with agent.client() as client:
        client.stop("bolts")
    assert verdict(program, agent, 255) == {"model": "bolts", "is_anomalous": True, "confidence": 1}
    assert not verdict(program, agent, 0)["is_anomalous"]


def test_it_prints_the_agents_sentence_when_a_call_is_refused(program: Path, agent: Agent) -> None:
    done = run(program, agent, "nuts", 0)
    assert done.returncode == 1
    assert b"Model 'nuts' isn't deployed" in done.stderr
