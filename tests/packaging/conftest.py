from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from edge_agent.cli import main
from tests.packaging.device import ARCHITECTURE


@pytest.fixture(scope="session")
def agent_component(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The agent's component folder for this machine; its wheels are as the index has them."""
    folder = tmp_path_factory.mktemp("agent")
    probe = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", str(folder / "probe")]
    if subprocess.run([*probe, "annotated-types"], check=False, capture_output=True).returncode:
        pytest.skip("no package index can be reached")
    words = ["--out", str(folder / "component"), "--architecture", ARCHITECTURE]
    assert main(["component", "build", *words, "--compression", "0"]) == 0
    return folder / "component"
