"""Requests that are no requests."""

from __future__ import annotations

import random
import socket
from pathlib import Path
from typing import Any, List, Set

import grpc
import pytest

from tests.contract.calls import INVALID_ARGUMENT, Caller, plain, refused, until
from tests.contract.generations import CALLS, LAST, SERVICE
from tests.fakes.agent import Agent

REFUSALS = {"INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION", "INTERNAL"}


def send(channel: grpc.Channel, path: str, content: bytes) -> Any:
    return channel.unary_unary(path, lambda raw: raw, lambda raw: raw).future(content, timeout=60)


def test_a_thousand_random_byte_strings_get_a_clear_status_each(
    channel: grpc.Channel, caller: Caller
) -> None:
    generator = random.Random(20)
    seen: Set[str] = set()
    for _ in range(1000):
        method = generator.choice([*CALLS[:1] * 4, *CALLS[3:]])
        size = generator.choice((0, 1, 2, 7, 30, 300, 3000))
        call = send(channel, SERVICE + method, bytes(generator.choices(range(256), k=size)))
        code = call.code().name
        seen.add(code)
        if code != "OK":  # a list needs nothing, and so understands much
            assert code in REFUSALS, call.details()
            assert call.details()
            assert "Internal fault" not in call.details()
        else:
            assert method == "ListModels"
    assert {"INTERNAL", "INVALID_ARGUMENT"} <= seen


def test_a_thousand_damaged_frames_get_a_clear_status_each(
    channel: grpc.Channel, caller: Caller
) -> None:
    """Valid requests with a few bytes changed, dropped or doubled."""
    generator = random.Random(21)
    handle = LAST.SharedMemoryHandle(name="edge-agent-test-nowhere", size=12288)
    bitmaps = [
        caller.bitmap(plain(255)),
        LAST.Bitmap(width=64, height=64, shared_memory_handle=handle),
    ]
    whole = [
        LAST.DetectAnomaliesRequest(
            model_component="seg",
            bitmap=bitmap,
            anomaly_mask_params=LAST.AnomalyMaskParams(shared_memory_handle=handle),
        ).SerializeToString()
        for bitmap in bitmaps
    ]
    calls: List[Any] = []
    for _ in range(1000):
        content = bytearray(generator.choice(whole))
        for _ in range(generator.randint(1, 4)):
            at = generator.choice((generator.randrange(len(content)), generator.randrange(40)))
            at %= len(content)
            content[at : at + 1] = generator.choice(
                (b"", bytes([generator.randrange(256)]), bytes(content[at : at + 9]))
            )
        calls.append(send(channel, SERVICE + "DetectAnomalies", bytes(content)))
        if len(calls) >= 20:
            check_clear(calls)
            calls.clear()
    check_clear(calls)


def check_clear(calls: List[Any]) -> None:
    for call in calls:
        code = call.code().name
        assert code in {"OK", *REFUSALS}, call.details()
        assert code == "OK" or "Internal fault" not in call.details()


@pytest.mark.parametrize("method", ["DetectAnomalies", "DescribeModel"])
def test_text_that_is_not_utf_8_is_undecodable(
    channel: grpc.Channel, caller: Caller, method: str
) -> None:
    call = send(channel, SERVICE + method, b"\x0a\x04\xff\xfe\xfd\xfc")
    assert call.code() is grpc.StatusCode.INTERNAL
    assert f"isn't a AWS.LookoutVision.{method}Request" in call.details()


def test_a_message_above_the_limit_is_refused_by_its_size(
    channel: grpc.Channel, caller: Caller
) -> None:
    """64 MiB; the largest legal frame has 48."""
    call = send(channel, SERVICE + "DetectAnomalies", bytes(64 * 1024 * 1024 + 1))
    assert call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "larger than max" in call.details()


def test_a_segment_name_of_any_length_is_refused_as_such(caller: Caller) -> None:
    """The sentence must stay short enough for gRPC's trailers, 8 KiB by default."""
    for name in ("x" * 100_000, "/" + "é" * 3000):
        handle = LAST.SharedMemoryHandle(name=name, size=12288)
        bitmap = LAST.Bitmap(width=64, height=64, shared_memory_handle=handle)
        refused(INVALID_ARGUMENT, caller.detect, "cls", bitmap)


def test_the_inspector_refuses_what_the_contract_refuses(
    channel: grpc.Channel, caller: Caller
) -> None:
    path = "/edge_agent.v1.Inspector/Inspect"
    assert send(channel, path, b"\xff").code() is grpc.StatusCode.INTERNAL
    assert send(channel, path, b"").code() is INVALID_ARGUMENT


def test_a_connection_that_speaks_no_http_is_dropped(agent: Agent, caller: Caller) -> None:
    for content in (b"", b"GET / HTTP/1.1\r\n\r\n", bytes(100_000), b"PRI * HTTP/2.0\r\n\r\nSM"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as raw:
            raw.settimeout(10)
            raw.connect(str(agent.socket))
            try:
                raw.sendall(content)
            except (BrokenPipeError, ConnectionResetError):
                continue


def test_a_hundred_connections_that_say_nothing_do_not_keep_others_out(
    agent: Agent, caller: Caller
) -> None:
    silent = [socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) for _ in range(100)]
    try:
        for raw in silent:
            raw.connect(str(agent.socket))
        with agent.channel() as fresh:
            assert Caller(fresh).detect("cls", plain(255)).is_anomalous
    finally:
        for raw in silent:
            raw.close()


def test_clients_that_hang_up_in_the_middle_leave_nothing_open(
    agent: Agent, caller: Caller
) -> None:
    def open_files() -> int:
        assert agent.process is not None
        return len(list(Path(f"/proc/{agent.process.pid}/fd").iterdir()))

    before = open_files()
    for _ in range(10):
        with agent.channel() as leaving:
            calls = [Caller(leaving).detect_later("cls", plain(255, 1920, 1080)) for _ in range(3)]
            calls[0].code()
    until(lambda: open_files() <= before + 1)
