"""Opening the CUDA layer, what it says of machines; over the FAKE driver."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Tuple

import numpy as np
import pytest

from edge_agent.errors import BackendUnavailable, GpuFailed
from edge_agent.runtime.backends.cuda import driver as cuda_driver
from edge_agent.runtime.backends.cuda import failures
from edge_agent.runtime.backends.cuda.by_ctypes import CtypesDriver
from edge_agent.runtime.backends.cuda.driver import ADAPTERS, Gpu
from tests import ROOT
from tests.fakes import fake_cuda

OPEN = """
import sys
from edge_agent.errors import BackendUnavailable, GpuFailed
from edge_agent.runtime.backends.cuda.driver import open_driver
for name in sys.argv[2].split():
    sys.modules[name] = None
try:
    sys.stdout.write(open_driver(sys.argv[1] or None).name)
except BackendUnavailable as error:
    sys.stdout.write(str(error))
"""


def opened(folder: Path, name: str = "", without: Tuple[str, ...] = ()) -> str:
    """What opening says in a process that finds the driver of `folder`, and its packages first."""
    command = [sys.executable, "-c", OPEN, name, " ".join(without)]
    places = {"LD_LIBRARY_PATH": str(folder), "PYTHONPATH": f"{folder}:{ROOT}"}
    ran = subprocess.run(
        command, env={**os.environ, **places}, stdout=subprocess.PIPE, text=True, timeout=60
    )
    assert ran.returncode == 0
    return ran.stdout


def test_the_first_package_that_can_be_imported_is_taken(tmp_path: Path) -> None:
    fake_cuda.driver(tmp_path)

    assert opened(tmp_path, without=("pycuda",)) == "libcuda.so.1"
    assert opened(tmp_path, name="libcuda") == "libcuda.so.1"


def test_a_package_that_cannot_be_loaded_is_passed_over_or_named(tmp_path: Path) -> None:
    fake_cuda.driver(tmp_path)
    (tmp_path / "pycuda.py").write_text("raise ImportError('_driver.so: undefined symbol: cuX')")

    assert not opened(tmp_path).startswith("pycuda")
    told = opened(tmp_path, name="pycuda")
    assert told.startswith("pycuda can't be loaded: _driver.so: undefined symbol: cuX. Install it")
    assert "pip install pycuda, on the device itself" in told


def test_the_error_for_a_missing_package_says_how_to_install_it(tmp_path: Path) -> None:
    fake_cuda.driver(tmp_path)

    told = opened(tmp_path, name="pycuda", without=("pycuda",))
    assert told.startswith("pycuda can't be loaded: ")
    assert "pip install pycuda" in told


@pytest.mark.parametrize("name", ["", *ADAPTERS])
def test_no_driver_is_reported_whatever_package_there_is(name: str, tmp_path: Path) -> None:
    (tmp_path / "libcuda.so.1").write_text("not a library")

    told = opened(tmp_path, name)
    assert "no NVIDIA driver (libcuda.so.1)" in told or "pip install" in told
    assert name or "no NVIDIA driver (libcuda.so.1). It comes with NVIDIA's driver" in told


def test_the_driver_says_which_gpu_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = tmp_path / "nv_tegra_release"
    release.write_text("# R35 (release), REVISION: 3.1, GCID: 32827747, BOARD: t186ref\n# more\n")
    monkeypatch.setattr(cuda_driver, "RELEASES", (tmp_path / "none", release))
    gpu = CtypesDriver(fake_cuda.driver(tmp_path, integrated=1)).gpu()

    assert gpu == Gpu("Xavier", (7, 2), "11.4", "R35.3.1", is_integrated=True)
    assert gpu.code == "sm_72"


@pytest.mark.parametrize(
    ("content", "told"), [("535.104.05\n", "535.104.05"), ("", ""), (None, "")]
)
def test_the_release_of_the_driver_is_known_where_the_system_has_it(
    content: Any, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "version"
    if content is not None:
        file.write_text(content)
    monkeypatch.setattr(cuda_driver, "RELEASES", (file,))

    assert CtypesDriver(fake_cuda.driver(tmp_path)).gpu().driver == told


def test_a_machine_without_driver_is_not_one_without_gpu(tmp_path: Path) -> None:
    with pytest.raises(BackendUnavailable, match=r"no NVIDIA driver \(libcuda\.so\.1\)"):
        CtypesDriver(str(tmp_path / "libcuda.so.1"))
    with pytest.raises(BackendUnavailable, match="no NVIDIA GPU that the driver can use"):
        CtypesDriver(fake_cuda.driver(tmp_path, init=100))


def test_a_driver_without_a_call_is_too_old(tmp_path: Path) -> None:
    source, library = tmp_path / "old.c", tmp_path / "libcuda.so.1"
    source.write_text("int cuInit(unsigned flags) { return 0; }")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", str(library), str(source)], check=True)

    with pytest.raises(BackendUnavailable, match=r"driver is too old to have cuDeviceGet\. Inst"):
        CtypesDriver(str(library))


def test_memory_kept_for_batches_goes_back_when_nobody_wants_more(tmp_path: Path) -> None:
    library = fake_cuda.driver(tmp_path)
    cuda = CtypesDriver(library)
    with cuda.context():
        batches = cuda.batches(iter([np.zeros(4, np.uint8)] * 4), 2)
        assert next(batches)
        batches.close()
        assert list(cuda.batches([], 2)) == []
    assert fake_cuda.left_words(library) == ""


@pytest.mark.parametrize("call", ["cuEventCreate", "cuMemAlloc", "cuMemcpyHtoDAsync"])
def test_batches_that_fail_leave_nothing(call: str, tmp_path: Path) -> None:
    library = fake_cuda.driver(tmp_path, fault=f"{call}:1=801")
    cuda = CtypesDriver(library)

    with cuda.context(), pytest.raises(GpuFailed, match=rf"{call} failed, .*\(801\)"):
        list(cuda.batches([np.zeros(4, np.uint8)], 1))
    assert fake_cuda.left_words(library) == ""


def test_codes_that_end_the_process_are_those_of_cuda_h() -> None:
    """Spot checks of both tables; the others are listed in the module with their source."""
    for code in (700, 702, 719, 721, 214, 100, 999):
        assert failures.failure("cuX", code, "words").is_sticky
    for code in (1, 2, 201, 400, 600, 801, 900, 901):
        assert not failures.failure("cuX", code, "words").is_sticky
