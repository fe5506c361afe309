"""The same load on a KServe V2 server: a small real one that computes the package's own graph."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from edge_agent import cli
from edge_agent.wire import kserve_v2_pb2 as wire
from tests.benchmark_peers.kserve_server import Servicer, serving
from tests.fakes import micro

SMALL = ["--seconds", "0.4", "--rounds", "20", "--size", "320x240", "--clients", "2"]


class OnnxServicer(Servicer):
    """Computes model.onnx of a package."""

    def __init__(self, package: Path) -> None:
        super().__init__()
        self._session = onnxruntime.InferenceSession(str(package / "model.onnx"))

    def model_infer(self, request: Any, context: Any) -> Any:
        entry = request.inputs[0]
        pixels = np.frombuffer(request.raw_input_contents[0], np.uint8).reshape(tuple(entry.shape))
        names = [output.name for output in self._session.get_outputs()]
        reply = wire.ModelInferResponse(model_name=request.model_name)
        for name, value in zip(names, self._session.run(names, {entry.name: pixels})):
            reply.outputs.add(name=name, datatype="FP32", shape=value.shape)
            reply.raw_output_contents.append(value.tobytes())
        return reply


def test_another_server_gets_the_same_load(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    package = micro.write(tmp_path / "map", "anomaly_map")
    with serving(OnnxServicer(package)) as address:
        words = ["benchmark", "--package", str(package), "--compare", f"grpc://{address}/map"]
        assert cli.main([*words, *SMALL, "--json"]) == 0
    measured = json.loads(capsys.readouterr().out)["sizes"][0]["measurements"]
    found = {one["load"]["transport"]: one for one in measured}
    assert list(found) == ["shared_memory", "bytes", "kserve"]
    assert found["kserve"]["frames"] > 0
    assert found["kserve"]["failures"] == {}
    assert found["kserve"]["agent"] is None  # the agent rests meanwhile
    assert found["kserve"]["throughput_of_raw"] > 0


def test_a_server_that_is_not_there_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    package = micro.write(tmp_path / "map", "anomaly_map")
    words = ["benchmark", "--package", str(package), "--compare", "grpc://127.0.0.1:1/map"]
    assert cli.main([*words, *SMALL]) == 2
    assert "UNAVAILABLE" in capsys.readouterr().err


@pytest.mark.parametrize("url", ["127.0.0.1:8001", "http://127.0.0.1:8001/map", "grpc://host/map"])
def test_a_wrong_url_is_refused(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["benchmark", "--compare", url]) == 2
    assert "expected grpc://HOST:PORT/MODEL" in capsys.readouterr().err
