"""What the doctor says of GPU and engines; GPU, CUDA and TensorRT are FAKES of ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Dict

import numpy as np
import onnx
import onnxruntime
import pytest

from edge_agent.cli import main
from edge_agent.doctor import trial
from edge_agent.runtime.backends.cuda.driver import Gpu
from edge_agent.runtime.backends.fingerprint import Fingerprint
from edge_agent.runtime.backends.ort import OrtBackend
from edge_agent.runtime.engines.cache import EngineCache, RefusedEngines
from edge_agent.runtime.engines.spec import build_spec
from tests.fakes import fake_cuda, micro
from tests.packaging import graphs
from tests.runtime.engines.test_machine import _site, fake, with_tensorrt  # noqa: F401 a fixture

XAVIER = Gpu("Xavier", (7, 2), "11.4", "R35.3.1")
MODEL = micro.graph("classification")


def results(capsys: pytest.CaptureFixture[str], *words: str) -> Dict[str, Any]:
    main(["doctor", "--json", *words])
    return {line["what"]: line for line in map(json.loads, capsys.readouterr().out.splitlines())}


def test_gpu_cuda_and_tensorrt_are_shown(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fake_cuda.driver(site, capability=(8, 7), name="Orin")
    with_tensorrt(site)

    found = results(capsys)

    assert {found[what]["state"] for what in ("GPU", "CUDA", "TensorRT")} == {"ok"}
    assert found["GPU"]["detail"].startswith("Orin, sm_87, driver ")
    assert " for CUDA 11.4, " in found["GPU"]["detail"]
    assert found["GPU"]["detail"].endswith(" MiB of memory free")
    assert found["CUDA"]["detail"].startswith("called through ")
    assert found["TensorRT"]["detail"] == "8.5.2.2"
    providers = found["onnxruntime providers"]
    assert providers["state"] == "ok"
    assert "CPUExecutionProvider computes on the CPU; CUDAExecutionProvider " in providers["detail"]


def test_a_tensorrt_that_cannot_work_with_the_driver_is_missing(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_cuda.driver(site)
    with_tensorrt(site, fake("10.16.1", works=False))

    found = results(capsys)

    assert (found["GPU"]["state"], found["TensorRT"]["state"]) == ("ok", "missing")
    assert "TensorRT 10.16.1 can't work on this machine: CUDA " in found["TensorRT"]["detail"]


def test_what_is_missing_is_shown_with_what_brings_it(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = results(capsys)

    assert {found[what]["state"] for what in ("GPU", "CUDA", "TensorRT")} == {"missing"}
    assert "no NVIDIA driver" in found["GPU"]["detail"]
    assert "pip install tensorrt-cu12" in found["TensorRT"]["detail"]
    assert found["onnxruntime providers"]["detail"] == "CPUExecutionProvider computes on the CPU"


def test_an_onnxruntime_that_brings_its_process_down_is_a_problem(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (site / "onnxruntime.py").write_text("import os; os.abort()")

    providers = results(capsys)["onnxruntime providers"]

    assert providers["state"] == "problem"
    assert "was ended by SIGABRT" in providers["detail"]


def test_the_trials_model_is_what_it_says() -> None:
    model = onnx.load_model_from_string(trial.MODEL)
    onnx.checker.check_model(model, full_check=True)

    assert [node.op_type for node in model.graph.node] == [
        "Cast", "Transpose", "Conv", "ReduceMean"
    ]  # fmt: skip
    session = onnxruntime.InferenceSession(trial.MODEL, providers=["CPUExecutionProvider"])
    (score,) = session.run(None, {"image": np.full((1, 8, 8, 3), 10, np.uint8)})
    assert score == [30.0]


def test_a_provider_that_computes_wrongly_is_shown() -> None:
    class Wrong(OrtBackend):
        def _run(self, batch: Any) -> Dict[str, Any]:
            return super()._run(batch // 2)

    assert trial.compute(OrtBackend) == ("CPU", "")
    assert trial.compute(Wrong) == ("", "CPU gives 15 instead of 30")


def fingerprint(tensorrt: str) -> Fingerprint:
    manifest = graphs.described(MODEL, runtime={"batch_sizes": [1, 4], "precision": "fp16"})
    return Fingerprint.of(tensorrt, XAVIER, MODEL, build_spec(manifest))


def test_the_engines_of_the_settings_folder_are_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache, folder = EngineCache(tmp_path / "engines", 1 << 30), tmp_path / "engines"
    kept, refused, damaged = (fingerprint(f"8.5.{number}") for number in range(3))
    for wanted in (kept, damaged):
        (tmp_path / "made").write_bytes(bytes(3 << 20))
        cache.store(wanted, tmp_path / "made", 83.4)
    cache.quarantine(damaged, "it's too short")
    RefusedEngines(folder).add(refused, "0" * 8, "another score")

    found = results(capsys, "--set", f"engine.cache={folder}")

    assert found["engines"]["detail"] == (
        f"{folder}: 1 of 3.0 MiB (at most 4096), 1 refused, 1 damaged"
    )
    engine = found[f"engine {kept.id}"]
    assert engine["state"] == "ok"
    assert engine["detail"].startswith(
        "GPU Xavier, TensorRT 8.5.0, fp16, batches of 1/4, 3.0 MiB, built 2"
    )
    assert engine["detail"].endswith(" in 83 s")

    (folder / f"{kept.id}.json").write_text("{}")
    found = results(capsys, "--set", f"engine.cache={folder}")
    assert found[f"engine {kept.id}"]["state"] == "problem"


def test_a_folder_of_engines_that_is_not_there_is_no_problem(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = results(capsys, "--set", f"engine.cache={tmp_path / 'none'}")

    assert found["engines"]["state"] == "missing"


def test_the_default_folder_of_engines_is_shown_where_there_is_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert "engines" not in results(capsys)
    folder = tmp_path / "edge-agent/engines"
    folder.mkdir(parents=True)

    found = results(capsys)["engines"]

    assert found["state"] == "ok"
    assert found["detail"].startswith(f"{folder}: 0 of 0.0 MiB")


def test_a_folder_of_engines_that_cannot_be_looked_into_is_a_problem(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = results(capsys, "--set", f"engine.cache={tmp_path / ('a' * 300)}")

    assert found["engines"]["state"] == "problem"
    assert "can't be read: File name too long" in found["engines"]["detail"]
