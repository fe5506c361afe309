"""The acceptance run, on machines that are FAKE, and on those where it can't be made."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Dict, Iterator, List

import numpy as np
import pytest

from edge_agent.runtime.vision.picture_files import png
from tests.fakes import fake_cuda, micro
from tests.gpu_check.fake_machine import NAME, SCRIPT, SMALL, clean, environment, gpu_check, states

# Loads as ever, and makes FP16 engines whose scores and maps are off by a little.
WRONG_HALF = """
import base64, onnx
from onnx import helper
load = fake_tensorrt_runtime._Engine.__init__
def change(self, logger, runtime, record):
    if record["flags"] == ["FP16", "TF32"]:
        model = onnx.load_model_from_string(base64.b64decode(record["model"]))
        model.graph.initializer.append(helper.make_tensor("off", 1, [], [0.9]))
        for node in model.graph.node:
            if node.op_type == "ReduceMax":
                node.output[0] = "right"
                model.graph.node.append(helper.make_node("Mul", ["right", "off"], ["score"]))
                break
        record = {**record, "model": base64.b64encode(model.SerializeToString()).decode()}
    load(self, logger, runtime, record)
fake_tensorrt_runtime._Engine.__init__ = change
"""
# Loses memory of the GPU with every engine that is loaded.
LEAK = """
load_engine = fake_tensorrt_runtime._Runtime.deserialize_cuda_engine
def leak(self, content):
    self._cuda.allocate(6 << 20)
    return load_engine(self, content)
fake_tensorrt_runtime._Runtime.deserialize_cuda_engine = leak
"""


@pytest.fixture
def package(tmp_path: Path) -> Path:
    return micro.write(tmp_path / "model", "anomaly_map", runtime={"batch_sizes": [1, 3]})


def test_without_a_gpu_it_says_so_and_nothing_else(tmp_path: Path) -> None:
    fake_cuda.driver(tmp_path, init=100)
    run = gpu_check([], {**clean(), "LD_LIBRARY_PATH": str(tmp_path)})
    assert (run.returncode, run.stdout) == (2, "")
    assert len(run.stderr.splitlines()) == 1
    assert run.stderr.startswith("gpu_check: This machine has no NVIDIA GPU")


@pytest.mark.skipif(find_spec("tensorrt") is not None, reason="TensorRT is installed here")
def test_without_tensorrt_it_names_what_brings_it(tmp_path: Path) -> None:
    fake_cuda.driver(tmp_path)
    run = gpu_check([], {**clean(), "LD_LIBRARY_PATH": str(tmp_path)})
    assert (run.returncode, run.stdout) == (2, "")
    assert "TensorRT isn't installed. " in run.stderr


def test_a_python_without_the_packages_is_an_error_that_names_them(tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(bare)], check=True)
    run = gpu_check([], {**clean(), "VENV": str(bare)})
    assert (run.returncode, run.stdout) == (2, "")
    assert "lacks numpy, pydantic, opencv-python-headless, onnx, onnxruntime" in run.stderr
    assert len(run.stderr.splitlines()) == 1


def test_a_folder_without_tensorrt_is_refused(tmp_path: Path) -> None:
    run = gpu_check([], {**clean(), "EDGE_AGENT_TENSORRT": str(tmp_path)})
    assert (run.returncode, run.stdout) == (2, "")
    assert f"there is no {tmp_path}/tensorrt" in run.stderr


def test_a_goal_that_doesnt_exist_is_refused(tmp_path: Path) -> None:
    run = gpu_check(["--goal", "speed=1"], environment(tmp_path / "trt"))
    assert (run.returncode, run.stdout) == (2, "")
    assert "one of loop, served, overlap, cached_start_s" in run.stderr


def test_the_whole_run_passes_on_a_good_machine(tmp_path: Path, package: Path) -> None:
    out, trt = tmp_path / "out", tmp_path / "trt"
    run = gpu_check(["--package", str(package), "--out", str(out), *SMALL], environment(trt))
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout.startswith(f"{NAME} (sm_72)")
    assert _not_ok(out) == {"parity onnxruntime-cuda": "skipped"}
    assert run.stdout.splitlines()[-1] == "not measured: nothing"
    found = _found(out)
    assert found["machine"]["gpu"]["name"] == NAME
    tables = found["tables"]
    assert [row["precision"] for row in tables["Engines"]] == ["fp32", "fp16", "int8"]
    assert [row["batch"] for row in tables["Frames a second"]] == [1, 3]
    assert {row["alone: plain or graph"] for row in tables["Frames a second"]} <= {"plain", "graph"}
    assert tables["Milliseconds a batch, one under way"][1]["engine alone"] > 0
    assert [row["engine"] for row in tables["Served to 2 clients"]] == ["none"] * 2 + [
        "tensorrt"
    ] * 2
    assert tables["Cold start"][0]["calls meanwhile"] > 20
    assert tables["Memory, MiB"][0]["worker"] > 1
    lines = (trt / "left").read_text().splitlines()
    assert lines
    assert {line.partition(": ")[2] for line in lines} == {"nothing left"}


def test_an_early_end_keeps_what_was_found_and_leaves_nothing(
    tmp_path: Path, package: Path
) -> None:
    """On a TensorRT that takes float16 from the graph alone, and no int8 from pictures.

    Trains the demo's model, where Python is new enough for all that trains; it takes a while.
    """
    out, work = tmp_path / "out", tmp_path / "work"
    work.mkdir()
    words = ["--strict", "--parts", "12", "--out", str(out), *SMALL, "--batches", "1"]
    trains = sys.version_info >= (3, 10)
    if not trains:
        words += ["--package", str(package)]
    here = {**environment(tmp_path / "trt", "11.4.0"), "TMPDIR": str(work)}
    with _running(words, here) as run:
        assert run.stdout is not None
        lines = [run.stdout.readline()]
        while "parity onnxruntime-cuda" not in lines[-1]:
            lines.append(run.stdout.readline())
            assert lines[-1], run.communicate()
            if len(lines) > 2:  # the title, a check and what is there of the next one
                assert len(_found(out)["checks"]) >= len(lines) - 2
        run.terminate()
        rest, problems = run.communicate(timeout=60)
    assert run.returncode == 1, rest + problems  # --strict
    assert rest.splitlines()[-1].startswith("not measured: loop (")
    found = _found(out)
    assert found["machine"]["tensorrt"] == "11.4.0"
    assert set(found["not_measured"]) == {"loop", "served", "overlap", "cached_start_s"}
    ends = {check["name"]: check for check in found["checks"]}
    assert ends["GPU memory at the end"]["state"] == "skipped"
    assert "ended by SIGTERM" in ends["fault: worker killed"]["detail"]
    assert "FAILED" not in {check["state"] for check in found["checks"]}
    graphs = {row["precision"]: row["graph"] for row in found["tables"]["Engines"]}
    half = {"fp16": "model.half.onnx"} if trains else {}  # needs golden samples
    assert graphs == {"fp32": "model.onnx", **half}
    assert not list(work.glob("edge-agent-*"))


def test_what_is_wrong_fails_and_nothing_else(tmp_path: Path, package: Path) -> None:
    out, data = tmp_path / "out", tmp_path / "data"
    _draw(data)  # of which half precision finds other scores, and the same verdicts
    words = ["--package", str(package), "--data", str(data), "--out", str(out), *SMALL]
    words += ["--batches", "1", "--clients", "1", "--goal", "cached_start_s=0"]
    for name in ("loop", "served", "overlap"):
        words += ["--goal", f"{name}=1000"]
    change = WRONG_HALF + LEAK
    run = gpu_check(words, environment(tmp_path / "trt", "8.5.2.2", change, False))
    assert run.returncode == 1, run.stdout + run.stderr
    failed = {name for name, state in _not_ok(out).items() if state == "FAILED"}
    assert failed == {
        "parity fp16",
        "loop beside the engine alone",
        "copies beside computing",
        "engine from the cache",
        "served to 1 clients",
        "StartModel with a built engine",
        "2 starts and stops",
        "fault: illegal address",
    }
    real = _found(out)["tables"]["Real pictures: data"]
    assert {row["verdicts equal"] for row in real} == {"2 of 2"}
    assert min(row["scores differ by"] for row in real) > 0.05


@contextmanager
def _running(words: List[str], here: Dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    """Start the check; it is ended when it hasn't ended by itself."""
    command = [str(SCRIPT), *words]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=here, stdout=pipe, stderr=pipe, text=True) as run:
        try:
            yield run
        finally:
            run.terminate()


def _found(out: Path) -> Dict[str, Any]:
    return dict(json.loads((out / "gpu_check.json").read_bytes()))


def _not_ok(out: Path) -> Dict[str, str]:
    return {name: state for name, state in states(out).items() if state != "ok"}


def _draw(folder: Path) -> None:
    for label, level in (("normal", 30), ("anomaly", 220)):
        (folder / label).mkdir(parents=True)
        picture = np.full((80, 80, 3), level, np.uint8)
        (folder / label / "1.png").write_bytes(png(picture))
