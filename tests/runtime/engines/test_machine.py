"""What the process finds out that looks at the machine; GPU and TensorRT are FAKES of ours."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from edge_agent.runtime.engines import machine
from edge_agent.runtime.engines.machine import Machine, look
from tests import ROOT
from tests.fakes import fake_cuda

FAKE = """
import sys
from tests.fakes import fake_tensorrt, fake_tensorrt_runtime
made = fake_tensorrt.tensorrt("{version}", has_driver={works})
sys.modules[__name__] = fake_tensorrt_runtime.add_runtime(made)
"""


def fake(version: str, works: bool = True) -> str:
    """The source of a module `tensorrt`; works: its driver is new enough for it."""
    return FAKE.format(version=version, works=works)


@pytest.fixture(name="site")
def _site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose modules and whose libcuda.so.1 the process sees before all others."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.setenv("PYTHONPATH", f"{folder}:{ROOT}")
    monkeypatch.setenv("LD_LIBRARY_PATH", str(folder))
    return folder


def with_tensorrt(site: Path, source: str = fake("8.5.2.2")) -> None:
    (site / "tensorrt.py").write_text(source)


def test_gpu_and_tensorrt_are_found_without_loading_them_into_this_process(site: Path) -> None:
    fake_cuda.driver(site, capability=(8, 7), name="Orin")
    with_tensorrt(site)

    found = look()

    assert found.gpu is not None
    assert (found.gpu.name, found.gpu.code, found.gpu.cuda) == ("Orin", "sm_87", "11.4")
    assert (found.tensorrt, found.has_fp16_flag) == ("8.5.2.2", True)
    assert (found.no_gpu, found.no_tensorrt, found.jetson) == ("", "", "")
    assert found.arch in ("ARM64", "X86_64")
    assert found.cuda_package
    assert "tensorrt" not in sys.modules
    assert str(site / "libcuda.so.1") not in Path("/proc/self/maps").read_text()


def test_from_11_on_tensorrt_has_no_flag_for_float16(site: Path) -> None:
    with_tensorrt(site, fake("11.4.0"))

    assert (look().tensorrt, look().has_fp16_flag) == ("11.4.0", False)


def test_a_tensorrt_that_the_driver_is_too_old_for_is_a_sentence(site: Path) -> None:
    fake_cuda.driver(site)
    with_tensorrt(site, fake("10.16.1", works=False))

    found = look()

    assert found.no_tensorrt == (
        "TensorRT 10.16.1 can't work on this machine: CUDA initialization failure with error: 35. "
        "It needs an NVIDIA GPU and a driver that is new enough for it."
    )
    assert (found.tensorrt, found.no_gpu, found.has_fp16_flag) == ("", "", False)
    assert found.gpu is not None


def test_a_gpu_that_fails_when_tensorrt_is_tried_says_nothing_of_tensorrt(site: Path) -> None:
    fake_cuda.driver(site, fault="cuDevicePrimaryCtxRetain:1=2")
    with_tensorrt(site)

    assert (look().tensorrt, look().no_tensorrt) == ("8.5.2.2", "")


def test_what_is_missing_is_named_with_what_brings_it(site: Path) -> None:
    found = look()

    assert found.gpu is None
    assert "no NVIDIA driver" in found.no_gpu
    assert "pip install tensorrt-cu12" in found.no_tensorrt
    assert (found.tensorrt, found.cuda_package, found.has_fp16_flag) == ("", "", False)


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("raise ImportError('libnvinfer.so.8: cannot open')", "libnvinfer.so.8: cannot open"),
        (fake("8.4.1"), "TensorRT 8.4.1 is too old"),
        ("import os; os.abort()", "was ended by SIGABRT"),
        ("import os, sys; print('driver gone', file=sys.stderr); sys.stderr.flush(); os._exit(3)",
         "ended with exit status 3; its last line: driver gone. Try it by hand: "),
        ("import threading; threading.Event().wait()",
         "was ended because it took more than 2 s; the driver may hang"),
    ],
)  # fmt: skip
def test_whatever_tensorrt_does_to_the_process_the_gpu_is_known(
    site: Path, source: str, sentence: str
) -> None:
    fake_cuda.driver(site)
    with_tensorrt(site, source)

    found = look(timeout_s=2.0 if "wait" in source else 60.0)

    assert sentence in found.no_tensorrt
    assert (found.tensorrt, found.no_gpu) == ("", "")
    assert found.gpu is not None


def test_a_gpu_that_the_driver_cannot_use_is_a_sentence_and_tensorrt_is_known(site: Path) -> None:
    fake_cuda.driver(site, init=100)
    with_tensorrt(site)

    found = look()

    assert "no NVIDIA GPU" in found.no_gpu
    assert (found.gpu, found.tensorrt) == (None, "8.5.2.2")


def test_what_others_print_is_not_taken_for_a_fact(site: Path) -> None:
    fake_cuda.driver(site)
    last = 'import atexit, os; atexit.register(os.write, 1, b\'{"tensorrt": "99"}\')\n'
    with_tensorrt(site, last + fake("8.5.2.2"))
    shouts = ["Welcome! \u2603", "[]", "7", "null", '{"gpu": {"capability": 3}}', '{"a": 1}']
    banner = "\\n".join(shouts).replace("\\n", "\\\\n")
    (site / "sitecustomize.py").write_text(f"print({banner!r})")

    found = look()

    assert found.gpu is not None
    assert (found.tensorrt, found.no_tensorrt) == ("8.5.2.2", "")


def test_a_process_that_reports_nothing_is_a_sentence_for_both(site: Path) -> None:
    (site / "sitecustomize.py").write_text("import os; os._exit(0)")

    found = look()

    assert "ended with exit status 0. Try it by hand" in found.no_gpu
    assert found == Machine(found.arch, no_gpu=found.no_gpu, no_tensorrt=found.no_gpu)


def test_a_jetson_is_known_by_its_release(tmp_path: Path) -> None:
    release = tmp_path / "nv_tegra_release"
    release.write_text("# R35 (release), REVISION: 3.1, GCID: 32827747, BOARD: t186ref, EABI: a\n")

    assert machine._jetson(release) == "R35.3.1"
    assert machine._jetson(tmp_path / "none") == ""


def test_on_a_jetson_apt_brings_tensorrt(tmp_path: Path) -> None:
    assert "sudo apt install python3-libnvinfer" in machine._how_to_install("R35.3.1", tmp_path)

    (tmp_path / "python3.8/dist-packages/tensorrt").mkdir(parents=True)
    told = machine._how_to_install("R35.3.1", tmp_path)
    assert "installed, but for the system's python3.8" in told
    assert "python3.8 -m venv --system-site-packages" in told


def test_the_command_by_hand_prints_the_same(site: Path) -> None:
    command = [sys.executable, "-m", machine.MODULE]

    told = subprocess.run(command, capture_output=True, check=True, timeout=60).stdout.decode()

    assert "no NVIDIA driver" in told


def test_a_driver_is_seen_on_the_linker_s_path_or_in_its_cache(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "ld.so.cache"
    cache.write_bytes(b"ld.so-1.7.0\0libc.so.6\0")
    assert not machine.has_driver(cache)
    fake_cuda.driver(site)
    assert machine.has_driver(cache)
    monkeypatch.delenv("LD_LIBRARY_PATH")
    assert not machine.has_driver(cache)
    cache.write_bytes(b"ld.so-1.7.0\0libcuda.so.1\0")
    assert machine.has_driver(cache)
    assert machine.has_driver(tmp_path / "musl has none")


def test_a_brief_look_says_the_same_where_there_is_a_driver(site: Path) -> None:
    fake_cuda.driver(site)
    with_tensorrt(site)

    assert machine.look_briefly() == look()
