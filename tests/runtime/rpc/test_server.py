from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Iterator, List

import grpc
import pytest

from edge_agent.client import Client
from edge_agent.config import ServerSettings
from edge_agent.errors import InvalidConfiguration, InvalidPackage, ModelNotFound
from edge_agent.runtime.metrics import Metrics
from edge_agent.runtime.rpc import convert, status
from edge_agent.runtime.rpc.server import Server
from edge_agent.types import DetectRequest, ModelInfo, ModelState
from edge_agent.wire import edge_agent_pb2 as wire
from tests.fakes.broker import free_port


@pytest.fixture
def asked(tmp_path: Path) -> Iterator[List[DetectRequest]]:
    """A server at `tmp_path`/s whose detector knows no model; what it was asked."""
    asked: List[DetectRequest] = []

    def detect(request: DetectRequest) -> None:
        asked.append(request)
        raise ModelNotFound.named(request.model, [])

    server = Server(
        ServerSettings(socket=f"unix://{tmp_path}/s"),
        SimpleNamespace(detect=detect, list=list),  # type: ignore[arg-type]
        Metrics(),
    )
    server.listen()
    server.start()
    yield asked
    server.stop(2.0)
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    "path", ["/AWS.LookoutVision.EdgeAgent/DetectAnomalies", "/edge_agent.v1.Inspector/Inspect"]
)
def test_frames_and_other_calls_are_answered(
    asked: List[DetectRequest], path: str, tmp_path: Path
) -> None:
    handle = wire.SharedMemoryHandle(name="/frame", size=64 * 64 * 3)
    bitmap = wire.Bitmap(width=64, height=64, shared_memory_handle=handle)
    request = wire.DetectAnomaliesRequest(model_component="none", bitmap=bitmap)
    with grpc.insecure_channel(f"unix://{tmp_path}/s") as channel:
        for camera_id in ("one", "two"):  # the same bytes again from somebody else
            with pytest.raises(grpc.RpcError) as caught:
                channel.unary_unary(path)(
                    request.SerializeToString(), timeout=20, metadata=(("camera-id", camera_id),)
                )
            assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    with Client(f"unix://{tmp_path}/s") as client:
        assert client.models() == []
    assert [request.caller.camera_id for request in asked] == ["one", "two"]
    assert asked[0].bitmap == asked[1].bitmap
    assert asked[0].times is not asked[1].times


def test_a_message_with_a_path_that_isnt_utf_8_can_be_sent() -> None:
    info = ModelInfo("bolts", ModelState.FAILED, "/models/\udcff is damaged.")
    for answer in (
        convert.description(info).model_description,
        convert.model_list([info]).models[0],
    ):
        assert answer.status_message == r"/models/\udcff is damaged."
    assert status.of(InvalidPackage(info.message))[1] == r"/models/\udcff is damaged."


def test_an_address_that_cant_be_had_gives_back_the_others(tmp_path: Path) -> None:
    good = {"socket": f"unix://{tmp_path}/s", "tcp": f"localhost:{free_port()}"}
    wrong = {**good, "operator_socket": "unix:///nowhere/operators.sock"}
    models = SimpleNamespace(list=list)
    with pytest.raises(InvalidConfiguration, match="/nowhere"):
        Server(ServerSettings(**wrong), models, Metrics()).listen()  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())
    server = Server(ServerSettings(**good), models, Metrics())  # type: ignore[arg-type]
    for _ in range(2):
        assert server.listen() == list(good.values())
        server.close()
    assert not list(tmp_path.iterdir())
