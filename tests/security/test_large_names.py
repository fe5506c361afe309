"""Names and requests as large as a message may be: they must cost no multiple of it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Iterator

import grpc
import pytest

from edge_agent.wire import edge_agent_pb2 as wire
from edge_agent.wire import edge_agent_v1_pb2 as wire_v1
from tests.contract.calls import INVALID_ARGUMENT, RESOURCE_EXHAUSTED, Caller, plain
from tests.fakes import micro
from tests.fakes.agent import Agent
from tests.security.conftest import MIB

SERVICE = "/AWS.LookoutVision.EdgeAgent/"
NAME = "\N{GRINNING FACE}" + "a" * (54 * MIB)  # one wide character makes all of them wide
LIMITS = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    agent = Agent(tmp_path, "--set", "server.memory_mib=256", "--set", "engine.threads=1")
    micro.write(agent.models / "seg", "segmentation")
    with agent:
        agent.run("seg")
        yield agent


def peak_mib(agent: Agent) -> int:
    assert agent.process is not None
    status = Path(f"/proc/{agent.process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) // 1024 for line in status if line.startswith("VmHWM"))


def varint(number: int) -> bytes:
    written = bytearray()
    while number > 127:
        written.append(number & 127 | 128)
        number >>= 7
    return bytes([*written, number])


REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
TEXT = NAME.encode()
FIRST_FIELD = b"\x0a" + varint(len(TEXT)) + TEXT  # a text or message of number 1
REQUESTS = {
    SERVICE + "DescribeModel": FIRST_FIELD,
    SERVICE + "StartModel": FIRST_FIELD,
    SERVICE + "DetectAnomalies": wire.DetectAnomaliesRequest(
        model_component=NAME, bitmap=wire.Bitmap(width=64, height=64, byte_data=b"x")
    ).SerializeToString(),
    "/edge_agent.v1.Inspector/Inspect": wire.DetectAnomaliesRequest(
        model_component="seg",
        bitmap=wire.Bitmap(
            width=64, height=64, shared_memory_handle=wire.SharedMemoryHandle(name=NAME, size=1)
        ),
    ).SerializeToString(),
    "/grpc.health.v1.Health/Check": FIRST_FIELD,
    "/grpc.health.v1.Health/Watch": FIRST_FIELD,
    REFLECTION: b"\x1a" + varint(len(TEXT)) + TEXT,
    "/edge_agent.v1.Inspector/StreamDetect": wire_v1.StreamDetectRequest(
        frame_id=1, request=wire.DetectAnomaliesRequest(model_component=NAME)
    ).SerializeToString(),
}


@pytest.mark.parametrize("path", REQUESTS)
def test_a_name_of_a_whole_message_is_refused_within_the_budget(agent: Agent, path: str) -> None:
    before = peak_mib(agent)
    with grpc.insecure_channel(agent.address, LIMITS) as channel:
        for _ in range(3):
            with pytest.raises(grpc.RpcError) as caught:
                list(channel.stream_stream(path)(iter([REQUESTS[path]]), timeout=60))
            error: grpc.Call = caught.value  # type: ignore[assignment]
            assert error.code() in (INVALID_ARGUMENT, RESOURCE_EXHAUSTED)
            assert len(error.details()) < 2000
        assert peak_mib(agent) <= before + 256 + 100
        assert Caller(channel).detect("seg", plain(255)).is_anomalous


def test_watchers_of_long_names_keep_no_camera_out(agent: Agent) -> None:
    with grpc.insecure_channel(agent.address, LIMITS) as channel, agent.channel() as cameras:
        watch = channel.stream_stream("/grpc.health.v1.Health/Watch")
        held = [watch(iter([FIRST_FIELD])) for _ in range(4)]
        caller = Caller(cameras)
        for _ in range(10):
            assert caller.detect("seg", plain(255, 640, 480)).is_anomalous
        assert all(call.code() is INVALID_ARGUMENT for call in held)


def test_streams_that_send_nothing_make_place(tmp_path: Path) -> None:
    """With a small budget there is one place; its holder must show that it sends frames."""
    words = "--set", "server.memory_mib=256", "--set", "server.receive_within_s=2"
    agent = Agent(tmp_path, *words)
    micro.write(agent.models / "cls", "classification")
    frame = wire.DetectAnomaliesRequest(
        model_component="cls",
        bitmap=wire.Bitmap(width=64, height=64, byte_data=plain(255).tobytes()),
    )
    request = wire_v1.StreamDetectRequest(frame_id=1, request=frame).SerializeToString()
    path = "/edge_agent.v1.Inspector/StreamDetect"
    with agent, agent.channel() as silent, agent.channel() as camera:
        agent.run("cls")
        waits = silent.stream_stream(path)(_never_ends())
        end, answered = time.monotonic() + 30.0, False
        while not answered:
            assert time.monotonic() < end
            try:
                found = list(camera.stream_stream(path)(iter([request]), timeout=20))
                answer = wire_v1.StreamDetectResponse.FromString(found[0])
                answered = answer.result.result.is_anomalous
            except grpc.RpcError:
                time.sleep(0.1)
        waits.cancel()


def _never_ends() -> Iterator[bytes]:
    time.sleep(15)
    yield from ()
