from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from edge_agent.cli import main
from tests.conftest import made_once
from tests.packaging.device import ARCHITECTURE


@pytest.fixture(scope="session")
def agent_component(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The agent's component folder for this machine; its wheels are as the index has them."""
    return made_once(tmp_path_factory, "agent-component", _build)


def _build(out: Path) -> None:
    probe = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", f"{out}-probe"]
    if subprocess.run([*probe, "annotated-types"], check=False, capture_output=True).returncode:
        pytest.skip("no package index can be reached")
    words = ["--out", str(out), "--architecture", ARCHITECTURE, "--compression", "0"]
    assert main(["component", "build", *words]) == 0
