from __future__ import annotations

import json

import pytest

from edge_agent import doctor
from edge_agent.cli import main


def test_the_doctor_names_what_is_here_and_what_is_missing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    main(["doctor", "--json"])
    found = {line["what"]: line for line in map(json.loads, capsys.readouterr().out.splitlines())}
    assert set(found) >= {
        "CPU", "memory", "Python", "onnxruntime", "onnxruntime providers", "GPU", "CUDA",
        "TensorRT", "shared memory", "groups", "Greengrass",
    }  # fmt: skip
    assert found["onnxruntime"]["state"] == "ok"
    assert "CPUExecutionProvider" in found["onnxruntime providers"]["detail"]
    assert found["Greengrass"]["state"] == "missing"


def test_the_doctor_notices_wheels_that_overwrite_each_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Not installed side by side for real: that would break the environment of all other tests.
    versions = {"onnxruntime": "1.0", "onnxruntime-gpu": "1.0"}
    monkeypatch.setattr(doctor, "_version", versions.get)
    (finding,) = doctor._conflicts()
    assert finding.state == doctor.PROBLEM
    assert "onnxruntime and onnxruntime-gpu overwrite each other" in finding.detail
    monkeypatch.setattr(doctor, "_version", {"onnxruntime": "1.0"}.get)
    assert doctor._conflicts() == []
