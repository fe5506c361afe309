"""The KServe client against a real socket."""

from __future__ import annotations

from typing import Tuple

import numpy as np
import pytest

from edge_agent.benchmark.kserve import KserveClient, byte_elements, resized_frame, whole_frame
from edge_agent.benchmark.peers.targets import Target, draw, open_target
from edge_agent.errors import AgentUnavailable, InvalidFrame, InvalidRequest
from edge_agent.manifest import InputSpec
from edge_agent.runtime.vision.preprocess import write_input
from edge_agent.types import Frame
from edge_agent.wire import kserve_v2_pb2 as wire
from tests.benchmark_peers.kserve_server import Servicer
from tests.conftest import left_behind, there

Server = Tuple[Servicer, str]
FRAME = np.arange(64 * 96 * 3, dtype=np.uint32).astype(np.uint8).reshape(64, 96, 3)


def test_a_whole_frame_goes_there_and_score_and_mask_come_back(server: Server) -> None:
    with KserveClient(server[1], "m") as client:
        answer = client.infer([whole_frame("frame", FRAME)])
    assert answer.outputs["score"] == pytest.approx(FRAME.mean())
    assert np.array_equal(answer.outputs["mask"], 255 - FRAME[np.newaxis])
    assert answer.seconds > 0
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


@pytest.mark.parametrize("kind", ["KServe gRPC, raw tensor", "KServe gRPC, shared memory"])
def test_a_peer_s_target_reads_score_and_mask(server: Server, kind: str) -> None:
    before = there()
    with open_target(Target(kind, server[1], (96, 64))) as connection:
        reply = connection.read(connection.call())
    frame = draw(96, 64)
    assert reply.score == pytest.approx(float(frame.mean()))
    assert reply.marked == pytest.approx(float(frame.any(axis=2).mean()))
    assert server[0].regions == {}
    assert left_behind(before) == set()


def test_elements_of_bytes_stand_behind_their_length(server: Server) -> None:
    tensor = byte_elements("frame", [b"ab", b""])
    assert tensor.data == b"\x02\0\0\0ab\0\0\0\0"
    reply = server[0].reply = wire.ModelInferResponse()
    reply.outputs.add(name="mask", datatype="BYTES", shape=[2])
    reply.raw_output_contents.append(tensor.data)
    with KserveClient(server[1], "m") as client:
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
    with KserveClient(server[1], "m") as client:
        outputs = client.infer([whole_frame("frame", FRAME)]).outputs
    assert np.array_equal(outputs["score"], [[0.25, 0.5]])
    assert outputs["names"] == [b"bolt"]


def test_a_datatype_it_does_not_know_is_refused_by_name(server: Server) -> None:
    reply = server[0].reply = wire.ModelInferResponse()
    reply.outputs.add(name="score", datatype="BF16", shape=[1])
    with KserveClient(server[1], "m") as client, pytest.raises(InvalidRequest, match="BF16"):
        client.infer([whole_frame("frame", FRAME)])


def test_a_frame_that_is_none_is_refused_before_it_is_sent() -> None:
    with pytest.raises(InvalidFrame, match="float64 of shape"):
        whole_frame("frame", np.zeros((4, 4, 3)))


def test_waiting_ends_when_the_model_is_ready_and_says_why_it_is_not(server: Server) -> None:
    with KserveClient(server[1], "m") as client:
        client.wait_ready(5.0)
        server[0].ready = False
        with pytest.raises(AgentUnavailable, match="isn't loaded"):
            client.wait_ready(0.0)
    with KserveClient("127.0.0.1:1", "m") as client, pytest.raises(
        AgentUnavailable, match="UNAVAILABLE"
    ):
        client.wait_ready(0.0)


def test_metadata_tells_what_the_model_takes(server: Server) -> None:
    with KserveClient(server[1], "m") as client:
        metadata = client.metadata()
    assert (metadata.name, metadata.inputs[0].shape) == ("m", [-1, -1, -1, 3])
