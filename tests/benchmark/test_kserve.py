"""The KServe client against a real socket, and the same load on a KServe V2 server.

That one is small and real: it computes the package's own graph.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Iterator, Tuple

import numpy as np
import onnxruntime
import pytest

from edge_agent import cli
from edge_agent.benchmark.kserve import KServeClient, byte_elements, resized_frame, whole_frame
from edge_agent.errors import InvalidFrame, InvalidRequest
from edge_agent.manifest import InputSpec
from edge_agent.runtime.vision.preprocess import write_input
from edge_agent.types import Frame
from edge_agent.wire import kserve_v2_pb2 as wire
from tests.fakes import micro
from tests.fakes.kserve_server import Servicer, serving

Server = Tuple[Servicer, str]
FRAME = np.arange(64 * 96 * 3, dtype=np.uint32).astype(np.uint8).reshape(64, 96, 3)
SMALL = ["--seconds", "0.4", "--rounds", "20", "--size", "320x240", "--clients", "2"]


@pytest.fixture(name="server")
def _server() -> Iterator[Server]:
    servicer = Servicer()
    with serving(servicer) as address:
        yield servicer, address


def test_a_whole_frame_goes_there_and_score_and_mask_come_back(server: Server) -> None:
    with KServeClient(server[1], "m") as client:
        answer = client.infer([whole_frame("frame", FRAME)])
    assert answer.outputs["score"] == pytest.approx(FRAME.mean())
    assert np.array_equal(answer.outputs["mask"], 255 - FRAME[np.newaxis])
    (request,) = server[0].requests
    assert request.model_name == "m"
    assert request.raw_input_contents == [FRAME.tobytes()]


@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_a_frame_resized_by_the_client_is_what_the_agent_feeds_its_model(
    layout: str, dtype: str
) -> None:
    spec = InputSpec(tensor="image", height=32, width=48, layout=layout, dtype=dtype)
    tensor = resized_frame(FRAME, spec)
    slot = np.empty(tensor.shape[1:], spec.dtype)
    write_input(Frame(FRAME), spec, slot)
    assert tensor.data == slot.tobytes()
    assert (tensor.name, tensor.shape[0]) == ("image", 1)
    assert tensor.datatype == {"uint8": "UINT8", "float32": "FP32"}[dtype]


def test_elements_of_bytes_stand_behind_their_length(server: Server) -> None:
    tensor = byte_elements("frame", [b"ab", b""])
    assert tensor.data == b"\x02\0\0\0ab\0\0\0\0"
    reply = server[0].reply = wire.ModelInferResponse()
    reply.outputs.add(name="mask", datatype="BYTES", shape=[2])
    reply.raw_output_contents.append(tensor.data)
    with KServeClient(server[1], "m") as client:
        assert client.infer([tensor]).outputs["mask"] == [b"ab", b""]


def test_contents_in_lists_are_read_as_well_as_raw_ones(server: Server) -> None:
    reply = server[0].reply = wire.ModelInferResponse()
    reply.outputs.add(name="score", datatype="FP32", shape=[1, 2]).contents.fp32_contents[:] = [
        0.25,
        0.5,
    ]
    reply.outputs.add(name="names", datatype="BYTES", shape=[1]).contents.bytes_contents[:] = [
        b"bolt"
    ]
    with KServeClient(server[1], "m") as client:
        outputs = client.infer([whole_frame("frame", FRAME)]).outputs
    assert np.array_equal(outputs["score"], [[0.25, 0.5]])
    assert outputs["names"] == [b"bolt"]


def test_a_datatype_it_does_not_know_is_refused_by_name(server: Server) -> None:
    reply = server[0].reply = wire.ModelInferResponse()
    reply.outputs.add(name="score", datatype="BF16", shape=[1])
    with KServeClient(server[1], "m") as client, pytest.raises(InvalidRequest, match="BF16"):
        client.infer([whole_frame("frame", FRAME)])


def test_a_frame_that_is_none_is_refused_before_it_is_sent() -> None:
    with pytest.raises(InvalidFrame, match="float64 of shape"):
        whole_frame("frame", np.zeros((4, 4, 3)))


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


def test_a_server_that_is_not_there_is_reported(
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
