"""Calls through gRPC's core, answered to grpc's own client over a real socket."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, Set, Type

import grpc
import pytest

from edge_agent.runtime.rpc import unary_calls
from edge_agent.runtime.rpc.handler_threads import HandlerThreads, waited_s
from edge_agent.runtime.rpc.unary_calls import (
    Call,
    Method,
    UnaryCalls,
    Unsupported,
    public_handlers,
)

ECHO, OTHER = "/test.Calls/Echo", "/test.Calls/Other"
LIMIT_BYTES = 4 * 1024 * 1024  # gRPC's own
LIMIT = 4


def echo(content: bytes, _call: Any) -> bytes:
    return content


@contextmanager
def served(
    folder: Path, methods: Dict[str, Method], *, publicly: bool = False, limit: int = LIMIT
) -> Iterator[grpc.Channel]:
    """Serve `methods`, and one of grpc's own beside them; yields a channel."""
    server = grpc.server(HandlerThreads(8))
    own = grpc.unary_unary_rpc_method_handler(lambda content, _: b"own " + content)
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("test.Own", {"Echo": own}),)
    )
    calls = None
    if publicly:
        server.add_generic_rpc_handlers(public_handlers(methods))
    else:
        calls = UnaryCalls(server, methods, limit)
    address = f"unix://{folder}/s"
    server.add_insecure_port(address)
    server.start()
    if calls is not None:
        calls.start()
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(address, options) as channel:
        try:
            yield channel
        finally:
            if calls is not None:
                calls.take_all()
            server.stop(1.0).wait()
            if calls is not None:
                calls.close()


def ask(channel: grpc.Channel, path: str = ECHO) -> Any:
    return channel.unary_unary(path)


@pytest.mark.parametrize("publicly", [False, True])
def test_calls_and_their_context(tmp_path: Path, publicly: bool) -> None:
    """The same of grpc's own server, which takes over where the core can't be had."""
    told: Dict[str, Any] = {}

    def tell(content: bytes, call: Any) -> bytes:
        told.update(dict(call.invocation_metadata()))
        told["peer"], told["left_s"] = call.peer(), call.time_remaining()
        told["waited_s"] = waited_s()
        call.set_trailing_metadata((("after", "seven"),))
        return content[::-1]

    with served(tmp_path, {ECHO: tell, OTHER: echo}, publicly=publicly) as channel:
        answer, call = ask(channel).with_call(b"abc", timeout=20, metadata=(("camera-id", "x"),))
        assert answer == b"cba"
        assert dict(call.trailing_metadata()) == {"after": "seven"}
        assert ask(channel, OTHER)(b"more", timeout=20) == b"more"
        assert ask(channel, "/test.Own/Echo")(b"words", timeout=20) == b"own words"
    assert told["camera-id"] == "x"
    assert told["peer"].startswith("unix:")
    assert 0.0 < told["left_s"] < 21.0  # gRPC rounds up on the wire
    assert 0.0 <= told["waited_s"] < 20.0


def test_without_a_deadline_there_is_time_for_ever(tmp_path: Path) -> None:
    with served(tmp_path, {ECHO: lambda _, call: str(call.time_remaining()).encode()}) as channel:
        assert float(ask(channel)(b"")) > 1e9


@pytest.mark.parametrize("compression", list(grpc.Compression))
def test_messages_of_any_size_and_compression(
    tmp_path: Path, compression: grpc.Compression
) -> None:
    with served(tmp_path, {ECHO: echo}) as channel:
        for size in (0, 1, 100_000, LIMIT_BYTES - 100):
            content = bytes(size)
            assert ask(channel)(content, timeout=20, compression=compression) == content


def test_a_message_above_the_limit_is_refused_and_the_next_answered(tmp_path: Path) -> None:
    with served(tmp_path, {ECHO: echo}) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            ask(channel)(bytes(LIMIT_BYTES + 1), timeout=20)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert ask(channel)(b"next", timeout=20) == b"next"


def test_a_method_ends_its_call_with_a_status(tmp_path: Path) -> None:
    def refuse(_content: bytes, call: Any) -> bytes:
        call.set_trailing_metadata((("hint", "later"),))
        return bytes(call.abort(grpc.StatusCode.NOT_FOUND, "Nö: no such model."))

    with served(tmp_path, {ECHO: refuse}) as channel, pytest.raises(grpc.RpcError) as caught:
        ask(channel)(b"", timeout=20)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    assert caught.value.details() == "Nö: no such model."
    assert dict(caught.value.trailing_metadata()) == {"hint": "later"}


@pytest.mark.parametrize("fault", [ValueError, SystemExit])
def test_a_fault_is_told_in_the_log_only(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, fault: Type[BaseException]
) -> None:
    def fail(_content: bytes, _call: Any) -> bytes:
        raise fault("secret seven")

    with served(tmp_path, {ECHO: fail, OTHER: echo}) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            ask(channel)(b"", timeout=20)
        assert ask(channel, OTHER)(b"next", timeout=20) == b"next"
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert "seven" not in caught.value.details()
    assert "secret seven" in caplog.text


def test_a_call_without_a_message_is_refused(tmp_path: Path) -> None:
    with served(tmp_path, {ECHO: echo}) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            channel.stream_unary(ECHO)(iter(()), timeout=20)
        assert ask(channel)(b"next", timeout=20) == b"next"
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_a_caller_who_goes_is_noticed_at_once(tmp_path: Path) -> None:
    began, gone, late = threading.Event(), threading.Event(), []

    def wait(content: bytes, call: Any) -> bytes:
        assert call.add_callback(gone.set)
        began.set()
        assert gone.wait(20)
        late.append(call.add_callback(gone.set))
        return content

    with served(tmp_path, {ECHO: wait, OTHER: echo}) as channel:
        future = ask(channel).future(b"x", timeout=20)
        assert began.wait(20)
        future.cancel()
        assert gone.wait(20)
        assert ask(channel, OTHER)(b"next", timeout=20) == b"next"
    assert late == [False]


@pytest.mark.parametrize("step", ["__init__", "watch", "read"])
def test_calls_that_cannot_be_taken_leave_the_next_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, step: str
) -> None:
    def fail(*_: Any) -> None:
        raise MemoryError("no room")

    with served(tmp_path, {ECHO: echo}) as channel:
        for _ in range(LIMIT + 1):
            with monkeypatch.context() as patched:
                patched.setattr(Call, step, fail)
                with pytest.raises(grpc.RpcError) as caught:
                    ask(channel)(b"", timeout=20)
            assert caught.value.code() is grpc.StatusCode.CANCELLED
            assert ask(channel)(b"next", timeout=20) == b"next"
    assert "no room" in caplog.text


def test_callbacks_that_fail_leave_the_others_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    over = threading.Event()

    def fail() -> None:
        raise ValueError("seven")

    def answer(content: bytes, call: Any) -> bytes:
        assert call.add_callback(fail)
        assert call.add_callback(over.set)
        return content

    with served(tmp_path, {ECHO: answer}) as channel:
        assert ask(channel)(b"x", timeout=20) == b"x"
        assert over.wait(20)
    assert "seven" in caplog.text


def test_callbacks_come_when_the_answer_is_sent(tmp_path: Path) -> None:
    over = threading.Event()

    def answer(content: bytes, call: Any) -> bytes:
        assert call.add_callback(over.set)
        return content

    with served(tmp_path, {ECHO: answer}) as channel:
        assert ask(channel)(b"x", timeout=20) == b"x"
        assert over.wait(20)


def test_many_at_a_time_and_too_many(tmp_path: Path) -> None:
    inside, gate = threading.Barrier(LIMIT + 1), threading.Event()

    def wait(content: bytes, _call: Any) -> bytes:
        inside.wait(20)
        assert gate.wait(20)
        return content

    with served(tmp_path, {ECHO: wait, OTHER: echo}) as channel:
        futures = [ask(channel).future(bytes([n]), timeout=20) for n in range(LIMIT)]
        inside.wait(20)
        with pytest.raises(grpc.RpcError) as caught:
            ask(channel, OTHER)(b"", timeout=20)
        gate.set()
        assert [future.result(20) for future in futures] == [bytes([n]) for n in range(LIMIT)]
        assert ask(channel, OTHER)(b"next", timeout=20) == b"next"
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_storm_of_callers_gets_every_answer_right(tmp_path: Path) -> None:
    refusals: Set[grpc.StatusCode] = set()

    def storm(number: int) -> int:
        right = 0
        for turn in range(50):
            content = f"{number} {turn}".encode()
            try:
                right += ask(channel)(content, timeout=20) == content
            except grpc.RpcError as error:
                refusals.add(error.code())
        return right

    with served(tmp_path, {ECHO: echo}) as channel, ThreadPoolExecutor(8) as pool:
        assert min(pool.map(storm, range(8))) > 0
    assert refusals <= {grpc.StatusCode.RESOURCE_EXHAUSTED}


def test_calls_that_came_before_the_end_are_all_answered(tmp_path: Path) -> None:
    def work(content: bytes, _call: Any) -> bytes:
        time.sleep(0.005)
        return content

    with served(tmp_path, {ECHO: work}, limit=200) as channel:
        futures = [ask(channel).future(bytes([n]), timeout=20) for n in range(100)]
        assert channel.unary_unary("/test.Own/Echo")(b"last", timeout=20) == b"own last"
    assert [future.result(20) for future in futures] == [bytes([n]) for n in range(100)]


def test_the_end_waits_for_calls_in_work(tmp_path: Path) -> None:
    began = threading.Event()

    def slow(content: bytes, _call: Any) -> bytes:
        began.set()
        threading.Event().wait(0.2)
        return content

    with served(tmp_path, {ECHO: slow}) as channel:
        future = ask(channel).future(b"x", timeout=20)
        assert began.wait(20)
        ended = threading.Event()
        future.add_done_callback(lambda _: ended.set())
        assert ended.wait(20)
    assert future.result(20) == b"x"


def test_a_call_that_outlasts_the_server_harms_nothing(tmp_path: Path) -> None:
    """Its answer goes nowhere; sent through a closed queue it would end the process."""
    began, gate, done = threading.Event(), threading.Event(), threading.Event()

    def hang(content: bytes, _call: Any) -> bytes:
        began.set()
        assert gate.wait(20)
        done.set()
        return content

    with served(tmp_path, {ECHO: hang}) as channel:
        future = ask(channel).future(b"x", timeout=20)
        assert began.wait(20)
        release = threading.Timer(2.0, gate.set)  # the server has given up by then
        release.start()
    assert future.exception(20) is not None
    assert done.wait(20)
    release.join()


@pytest.mark.parametrize("server", [object(), type("Server", (), {"_state": None})()])
def test_a_grpc_without_such_a_core_is_told(server: Any) -> None:
    with pytest.raises(Unsupported, match=grpc.__version__):
        UnaryCalls(server, {ECHO: echo}, LIMIT)


def test_threads_end_with_the_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[threading.Thread] = []
    own = unary_calls.Pollers

    class Watched(own):  # type: ignore[misc, valid-type]
        def __init__(self, poll: Callable[[float], bool]) -> None:
            def noted(within_s: float) -> bool:
                started.append(threading.current_thread())
                return poll(within_s)

            super().__init__(noted)

    monkeypatch.setattr(unary_calls, "Pollers", Watched)
    with served(tmp_path, {ECHO: echo}) as channel:
        assert ask(channel)(b"x", timeout=20) == b"x"
    assert started
    for thread in set(started):
        thread.join(20)
        assert not thread.is_alive()
