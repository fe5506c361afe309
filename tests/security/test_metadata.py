"""What travels beside the messages reaches results, logs and files: plain words only."""

from __future__ import annotations

import socket
from typing import Iterator

import pytest

from tests.contract.calls import INVALID_ARGUMENT, Caller, plain, refused
from tests.contract.generations import LAST
from tests.fakes import micro
from tests.fakes.agent import Agent
from tests.security.http2 import raw_call

FRAME = plain(255)


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    agent = Agent(tmp_path_factory.mktemp("agent"))
    micro.write(agent.models / "cls", "classification")
    with agent:
        agent.run("cls")
        yield agent


@pytest.mark.parametrize("key", [b"camera-id", b"lane"])
@pytest.mark.parametrize(
    "value",
    [b"\x1b[2J", b"line\ttwo", b"left\x7f", b"caf\xc3\xa9", b"\x80\x02c__builtin__", b"a\xff"],
)
def test_metadata_with_other_than_printable_characters_is_refused(
    agent: Agent, key: bytes, value: bytes
) -> None:
    message = LAST.DetectAnomaliesRequest(
        model_component="cls", bitmap=LAST.Bitmap(width=64, height=64, byte_data=FRAME.tobytes())
    )
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(agent.socket))
        heard = raw_call(client, "DetectAnomalies", message.SerializeToString(), (key, value))
    assert b"expected printable ASCII characters" in heard
    assert value not in heard


@pytest.mark.parametrize("key", ["camera-id", "lane"])
def test_metadata_of_more_than_128_characters_is_refused(agent: Agent, key: str) -> None:
    with agent.channel() as channel:
        caller = Caller(channel)
        request = LAST.DetectAnomaliesRequest(model_component="cls", bitmap=caller.bitmap(FRAME))
        detect = caller.stub.DetectAnomalies
        long = ((key, "x" * 129),)
        details = refused(INVALID_ARGUMENT, detect, request, timeout=30, metadata=long)
        assert "129 characters" in details
        if key == "camera-id":
            assert detect(request, timeout=30, metadata=((key, "x" * 128),))
