"""Attacks on gRPC, HTTP/2 and HPACK: the agent lives, others are served, memory and log stay small.

The frames are made by hand, because no client would send them.
"""

from __future__ import annotations

import contextlib
import gzip
import random
import struct
import time
from typing import Callable, Dict, List

import grpc
import pytest

from tests.contract.calls import Caller, plain
from tests.contract.generations import CALLS, LAST, SERVICE
from tests.fakes.agent import Agent
from tests.security.conftest import MIB, Polite
from tests.security.raw_http2 import (
    ACK,
    CANCEL,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PING,
    PREFACE,
    PRIORITY,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    Connection,
    block,
    call,
    frame,
    literal,
    message,
)

LIST = (SERVICE + "ListModels").encode()
DETECT = (SERVICE + "DetectAnomalies").encode()
LOG_BYTES = 20_000  # of thousands of frames
MEMORY_BYTES = 100 * MIB
# grpcio of Python 3.8 keeps up to 10,000 answers to pings for each connection, 8 KiB each.
IS_OLD = tuple(map(int, grpc.__version__.split(".")[:2])) < (1, 84)
FLOOD_S = 3.0

Frames = Callable[[int], bytes]
BOUNDS_INFLATION = tuple(map(int, grpc.__version__.split(".")[:2])) >= (1, 84)


def called(number: int, path: bytes = LIST, *more: tuple[bytes, bytes]) -> bytes:
    return frame(HEADERS, END_HEADERS, 2 * number + 1, call(path, *more))


def sent(number: int, content: bytes) -> bytes:
    return frame(DATA, END_STREAM, 2 * number + 1, content)


def reset(number: int) -> bytes:
    return frame(RST_STREAM, 0, 2 * number + 1, CANCEL)


def with_kept_header(number: int) -> bytes:
    """4 KB said once, then meant 15,000 times by one byte each: 60 MB of headers a call."""
    kept = literal(b"a", b"b" * 4000, kept=True) if number == 0 else b""
    return frame(HEADERS, END_HEADERS, 2 * number + 1, call(LIST) + kept + b"\xbe" * 15_000)


PATHS = (b"", b"/", b"//", b"*", b"/" + b"x" * 8000, b"/\xff\xfe", b"\0", LIST + b"/", b"/a/b")

# How often each is sent on one connection, and what; the agent may hang up at any time.
FLOODS: Dict[str, tuple[int, Frames]] = {
    "calls reset at once": (10_000, lambda number: called(number) + reset(number)),
    "frames half sent and reset": (
        5_000,
        lambda number: (
            called(number, DETECT)
            + frame(DATA, 0, 2 * number + 1, message(bytes(100))[:50])
            + reset(number)
        ),
    ),
    "calls complete and reset": (
        5_000,
        lambda number: called(number) + sent(number, message(b"")) + reset(number),
    ),
    "pings": (100_000, lambda _: frame(PING, payload=bytes(8))),
    "answers to pings": (100_000, lambda _: frame(PING, ACK, payload=bytes(8))),
    "settings": (100_000, lambda _: frame(SETTINGS, payload=struct.pack(">HL", 4, 65535))),
    "windows that grow too far": (
        1_000, lambda _: frame(WINDOW_UPDATE, payload=struct.pack(">L", 2**31 - 1)),
    ),
    "priorities": (
        100_000, lambda number: frame(PRIORITY, 0, 2 * number + 1, bytes([0, 0, 0, 0, 16])),
    ),
    "goodbyes": (1_000, lambda _: frame(GOAWAY, payload=bytes(8))),
    "frames of no kind": (20_000, lambda _: frame(0xFE, payload=bytes(1000))),
    "empty data": (
        100_000, lambda number: called(0) if number == 0 else frame(DATA, 0, 1),
    ),
    "empty continuations": (
        100_000,
        lambda number: (
            frame(HEADERS, 0, 1, call(LIST)) if number == 0 else frame(CONTINUATION, 0, 1)
        ),
    ),
    "endless headers": (
        5_000,
        lambda number: (
            frame(HEADERS, 0, 1, call(LIST)) if number == 0
            else frame(CONTINUATION, 0, 1, block([(b"x-%d" % number, bytes(15_000))]))
        ),
    ),
    "headers from the table": (1_000, with_kept_header),
    "a frame larger than allowed": (
        2_000, lambda number: b"\xff\xff\xff\0\0\0\0\0\1" if number == 0 else bytes(16_384),
    ),
    "metadata of 12 KiB": (
        1_000,
        lambda number: (
            called(number, LIST, (b"x-long", b"x" * 12_288)) + sent(number, message(b""))
        ),
    ),
    "metadata that is no base64": (
        2_000,
        lambda number: called(number, LIST, (b"x-bin", b"!!!")) + sent(number, message(b"")),
    ),
    "metadata that is no text": (
        2_000,
        lambda number: (
            called(number, LIST, (b"camera-id", b"\xff\r\n\0")) + sent(number, message(b""))
        ),
    ),
    "names of methods that are none": (
        2_000,
        lambda number: called(number, PATHS[number % len(PATHS)]) + sent(number, message(b"")),
    ),
    "calls without a path": (
        2_000,
        lambda number: frame(
            HEADERS, END_HEADERS | END_STREAM, 2 * number + 1, block([(b":method", b"GET")])
        ),
    ),
    "messages said to have 4 GiB": (
        1_000,
        lambda number: (
            called(number)
            + frame(DATA, 0, 2 * number + 1, struct.pack(">BL", 0, 2**32 - 1))
            + reset(number)
        ),
    ),
    "messages compressed in no way": (
        2_000, lambda number: called(number, DETECT) + sent(number, b"\x07\0\0\0\1x"),
    ),
    "two messages where one belongs": (
        2_000, lambda number: called(number, DETECT) + sent(number, 2 * message(b"")),
    ),
    "no message where one belongs": (
        2_000, lambda number: called(number, DETECT) + sent(number, b""),
    ),
    "half a message": (
        2_000, lambda number: called(number, DETECT) + sent(number, message(bytes(100))[:50]),
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", FLOODS)
def test_a_flood_on_one_connection_hurts_nobody_else(
    agent: Agent, polite: Polite, kind: str
) -> None:
    count, make = FLOODS[kind]
    end = time.monotonic() + FLOOD_S

    def pour() -> None:
        with Connection(agent.socket) as connection:
            for start in range(0, count, 100):
                connection.send(b"".join(make(number) for number in range(start, start + 100)))
                connection.drain()
                if not connection.is_open or time.monotonic() > end:
                    return

    polite.during(pour)
    assert polite.log_bytes < LOG_BYTES, agent.log()[-2000:]
    assert polite.peak_bytes < MEMORY_BYTES * (6 if IS_OLD and kind == "pings" else 1)


def test_ten_thousand_headers_are_answered_or_refused(agent: Agent, polite: Polite) -> None:
    headers = call(LIST, *((b"x-%d" % number, b"v") for number in range(10_000)))
    parts = [headers[start : start + 16_000] for start in range(0, len(headers), 16_000)]

    def ask() -> bytes:
        with Connection(agent.socket) as connection:
            connection.send(frame(HEADERS, 0, 1, parts[0]))
            for part in parts[1:-1]:
                connection.send(frame(CONTINUATION, 0, 1, part))
            connection.send(frame(CONTINUATION, END_HEADERS, 1, parts[-1]))
            connection.send(sent(0, message(b"")))
            answer, end = b"", time.monotonic() + 60.0
            while b"grpc-status" not in answer and connection.is_open and time.monotonic() < end:
                answer += connection.drain()
            return answer

    assert b"grpc-status" in polite.during(ask)
    assert polite.peak_bytes < MEMORY_BYTES


@pytest.mark.parametrize("size", [8 * 1024, 16 * 1024])
def test_metadata_of_many_kilobytes_is_taken_or_refused_and_the_next_call_served(
    agent: Agent, polite: Polite, size: int
) -> None:
    with agent.channel() as channel:
        ask = channel.unary_unary(SERVICE + "ListModels")
        for name, value in (("camera-id", "c" * size), ("x-any-bin", bytes(size // 2))):
            outcome = ask.future(b"", timeout=20, metadata=[(name, value)])
            assert outcome.code().name in ("OK", "INVALID_ARGUMENT", "RESOURCE_EXHAUSTED")
        assert ask(b"", timeout=60)
    polite.call()


@pytest.mark.parametrize("greeting", [b"", PREFACE[:10], PREFACE, PREFACE + frame(SETTINGS)[:5]])
def test_half_handshakes_keep_nobody_out(agent: Agent, polite: Polite, greeting: bytes) -> None:
    with contextlib.ExitStack() as opened:
        for _ in range(100):
            half = opened.enter_context(Connection(agent.socket, greet=False))
            half.send(greeting)
        polite.call()
        with agent.channel() as fresh:
            assert Caller(fresh).detect("cls", plain(255)).is_anomalous


def test_garbage_behind_a_good_beginning_ends_that_connection_only(
    agent: Agent, polite: Polite
) -> None:
    """Frames of every kind with random flags, streams, contents and lengths that don't fit."""
    generator = random.Random(15)

    def pour() -> None:
        for _ in range(300):
            with Connection(agent.socket) as connection:
                for _ in range(20):
                    content = bytes(generator.choices(range(256), k=generator.randrange(60)))
                    garbage = bytearray(
                        frame(
                            generator.randrange(11), generator.randrange(256),
                            generator.randrange(4), content,
                        )
                    )  # fmt: skip
                    if generator.random() < 0.2:
                        garbage[2] = generator.randrange(256)
                    connection.send(bytes(garbage))

    polite.during(pour)
    assert polite.log_bytes < LOG_BYTES, agent.log()[-2000:]


def test_a_compressed_bomb_is_never_inflated(agent: Agent, polite: Polite) -> None:
    """250 KB that become 256 MiB; grpcio before 1.84 looks at the size when it has it all."""
    bomb = gzip.compress(bytes(256 * MIB), 9)
    assert len(bomb) < MIB
    pieces = [
        frame(DATA, 0, 1, message(bomb, compressed=True)[at : at + 16_384])
        for at in range(0, len(bomb) + 5, 16_384)
    ]

    def throw() -> bytes:
        with Connection(agent.socket) as connection:
            connection.send(called(0, DETECT, (b"grpc-encoding", b"gzip")))
            answer, end = b"", time.monotonic() + 60.0
            for piece in pieces:  # within the windows that the agent gives
                connection.send(piece)
                answer += connection.drain()
                time.sleep(0.001)
            connection.send(frame(DATA, END_STREAM, 1))
            while b"grpc-status" not in answer and connection.is_open and time.monotonic() < end:
                answer += connection.drain()
            return answer

    answer = polite.during(throw)
    assert b"grpc-status" in answer
    assert polite.peak_bytes < MEMORY_BYTES


@pytest.mark.parametrize(
    ("method", "algorithm"),
    [("DetectAnomalies", grpc.Compression.Gzip), ("ListModels", grpc.Compression.Deflate)],
)
def test_compressed_messages_beyond_the_limit_are_refused_with_a_clear_status(
    agent: Agent, polite: Polite, method: str, algorithm: grpc.Compression
) -> None:
    """Where grpcio would inflate them all before it looks, no compressed message is taken."""
    limit = [("grpc.max_send_message_length", -1)]

    def throw() -> grpc.Call:
        with grpc.insecure_channel(agent.address, limit, algorithm) as channel:
            ended = channel.unary_unary(SERVICE + method).future(bytes(256 * MIB), timeout=60)
            ended.code()
            return ended

    ended = polite.during(throw)
    if BOUNDS_INFLATION:
        assert ended.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    else:
        assert ended.code() is grpc.StatusCode.UNIMPLEMENTED
        assert "disabled" in ended.details()
    assert polite.peak_bytes < MEMORY_BYTES


@pytest.mark.skipif(not BOUNDS_INFLATION, reason="this grpcio inflates without a bound")
def test_compressed_frames_are_judged(agent: Agent) -> None:
    pixels = bytes([255, 40, 0]) * 64 * 64
    request = LAST.DetectAnomaliesRequest(
        model_component="cls", bitmap=LAST.Bitmap(width=64, height=64, byte_data=pixels)
    )
    with agent.channel() as channel:
        detect = channel.unary_unary(SERVICE + "DetectAnomalies")
        content = request.SerializeToString()
        answer = detect(content, timeout=20, compression=grpc.Compression.Gzip)
    assert LAST.DetectAnomaliesResponse.FromString(answer).detect_anomaly_result.is_anomalous


def test_methods_that_dont_exist_and_messages_of_others_get_a_clear_status(
    agent: Agent, polite: Polite
) -> None:
    """A frame sent to every other call, and everything else sent to DetectAnomalies."""
    frame_bytes = LAST.DetectAnomaliesRequest(
        model_component="cls", bitmap=LAST.Bitmap(width=64, height=64, byte_data=bytes(12_288))
    ).SerializeToString()
    health = "/grpc.health.v1.Health/Check"
    reflection = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
    streams = ("/edge_agent.v1.Inspector/StreamDetect", reflection)
    seen: List[str] = []
    with agent.channel() as channel:
        for path in (SERVICE + "Nothing", "/", "/grpc.health.v1.Health/Kill", "x", health + "/"):
            seen.append(channel.unary_unary(path).future(b"", timeout=60).code().name)
        assert set(seen) == {"UNIMPLEMENTED"}
        for method in (*CALLS[1:], "DetectAnomalies"):
            outcome = channel.unary_unary(SERVICE + method).future(frame_bytes * 2, timeout=60)
            assert outcome.code().name in ("OK", "NOT_FOUND", "INVALID_ARGUMENT",
                                           "FAILED_PRECONDITION", "INTERNAL")  # fmt: skip
        for path in (*streams, health):
            ended = channel.stream_stream(path)(iter([frame_bytes, b"\xff" * 100]), timeout=60)
            with contextlib.suppress(grpc.RpcError):
                list(ended)
            assert ended.code().name != "DEADLINE_EXCEEDED"
    with agent.client() as client:
        models = {info.name: info.state.name for info in client.models()}
    if models["cls"] == "STOPPED":  # a frame's first field is a name to StopModel too
        agent.run("cls")
    polite.call()
