"""A real agent with a running model, and a camera that the examples read from."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Iterator, List

import numpy as np
import pytest

from tests import ROOT
from tests.contract.calls import plain
from tests.fakes import micro
from tests.fakes.agent import Agent
from tests.runtime.results.conftest import journals

EXAMPLES = ROOT / "examples"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}
REDS = (0, 255, 128)  # the model's score of a frame is its red / 255


@pytest.fixture(autouse=True)
def _no_journal_is_left(tmp_path: Path) -> Iterator[None]:
    """On a busy machine an agent may end before all of its journal is in the outbox."""
    yield
    for journal in journals(tmp_path):
        shutil.rmtree(journal)


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    running = Agent(tmp_path_factory.mktemp("agent"))
    micro.write(running.models / "bolts", "anomaly_map")
    with running:
        running.run("bolts")
        yield running


def camera(*reds: int) -> bytes:
    """What ffmpeg writes: frames of 64x64 one after the other, raw RGB."""
    return b"".join(np.ascontiguousarray(plain(red)).tobytes() for red in reds)


def verdicts(
    name: str, agent: Agent, python: str = sys.executable, model: str = "bolts"
) -> List[str]:
    """Run one of the camera loops with `python` and return the lines it printed."""
    words = [python, str(EXAMPLES / name), "--address", agent.address, "--model", model]
    environment = ENVIRONMENT if python == sys.executable else {"PATH": os.environ["PATH"]}
    done = subprocess.run(
        [*words, "--width", "64", "--height", "64"], input=camera(*REDS), env=environment,
        capture_output=True, timeout=60, check=False, cwd=Path(python).parent,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, b""), done.stderr.decode()
    return done.stdout.decode().splitlines()
