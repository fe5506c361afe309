"""Each adapter that can be imported here keeps the contract, over the FAKE driver."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import ROOT
from tests.fakes import fake_cuda

CONTRACT = ROOT / "tests/fakes/cuda_contract.py"
PACKAGES = {"pycuda": "pycuda", "libcuda": "ctypes"}


@pytest.mark.parametrize("adapter", PACKAGES)
def test_the_adapter_keeps_the_contract(adapter: str, tmp_path: Path) -> None:
    if importlib.util.find_spec(PACKAGES[adapter]) is None:
        pytest.skip(f"{adapter} isn't installed here")
    fake_cuda.driver(tmp_path, version=13000)
    wanted = {"CUDA_ADAPTER": adapter, "LD_LIBRARY_PATH": str(tmp_path)}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(CONTRACT)]

    ran = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **wanted}, capture_output=True, text=True, timeout=100
    )

    assert ran.returncode == 0, ran.stdout[-8000:] + ran.stderr[-2000:]
    assert " passed" in ran.stdout
