"""Strangers who hold connections, on real sockets: the original client is answered meanwhile."""

from __future__ import annotations

import contextlib
import select
import socket
from pathlib import Path
from typing import Callable, Iterator, List

import pytest

from edge_agent.service import connections
from edge_agent.service.auth.access_keys import AccessKey
from edge_agent.service.connections import CONNECTIONS
from tests.service.aws import needs_aws
from tests.service.running import RunningService
from tests.service.served import ACCOUNT, PROJECTS, Served, served

HEAD = f"POST {PROJECTS} HTTP/1.1\r\nHost: here\r\n".encode()
BODY_TO_COME = HEAD + b"Content-Length: 1000000\r\n\r\n{"
NOBODY = AccessKey("AKIAAAAAAAAAAAAAAAAA", ACCOUNT, "secret", 0.0)
LIST = "result = [client.list_projects()['Projects'] for _ in range(3)]"


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Served]:
    with served(tmp_path, {}) as running:
        yield running


@contextlib.contextmanager
def strangers(port: int, number: int, say: bytes) -> Iterator[List[socket.socket]]:
    """So many connections, each of which says this and no more."""
    with contextlib.ExitStack() as stack:
        made = []
        for _ in range(number):
            made.append(stack.enter_context(socket.create_connection(("127.0.0.1", port), 60)))
            made[-1].sendall(say)
        yield made


def is_closed(connection: socket.socket) -> bool:
    """Wait for the end of a connection."""
    assert select.select([connection], [], [], 60)[0]
    try:
        return connection.recv(10_000) == b""
    except ConnectionResetError:
        return True


@needs_aws
@pytest.mark.parametrize(
    "say", [b"", HEAD, BODY_TO_COME], ids=["nothing", "half a head", "no body"]
)
def test_strangers_hold_no_place(tmp_path: Path, say: bytes) -> None:
    with RunningService(tmp_path) as running:
        user = running.user()
        with strangers(running.port, CONNECTIONS + 50, say) as held:
            assert user.boto3(LIST) == [[]] * 3
            assert is_closed(held[0])


@pytest.mark.parametrize("say", [b"", HEAD])
def test_a_head_must_come_in_time(
    service: Served, monkeypatch: pytest.MonkeyPatch, say: bytes
) -> None:
    monkeypatch.setattr(connections, "HEAD_S", 0.3)
    with strangers(service.port, 1, say) as (one,):
        assert is_closed(one)


def test_the_head_of_a_second_call_must_come_in_time(
    service: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "HEAD_S", 0.3)
    with strangers(service.port, 1, HEAD + b"\r\n") as (one,):
        assert b" 403 " in one.recv(10_000)
        one.sendall(HEAD)
        assert is_closed(one)


def test_heads_have_one_budget_of_memory(service: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEADS_BYTES", 10**6)
    long = HEAD + b"x-long: " + b"x" * 300_000
    with strangers(service.port, 4, long) as held:
        closed = select.select(held, [], [], 60)[0]
        assert 1 <= len(closed) < 4
        assert is_closed(closed[0])
    assert service.signed("GET", PROJECTS).status == 200


def unknown(service: Served) -> bytes:
    return head(service, NOBODY)


def known(service: Served) -> bytes:
    return head(service, service.key)


def head(service: Served, key: AccessKey) -> bytes:
    """The head of a signed call with a body, which waits for a word of the service."""
    signed = service.signature("POST", PROJECTS, b"x" * 100, {}, key)
    lines = "".join(f"{name}: {value}\r\n" for name, value in signed.items())
    port = f"127.0.0.1:{service.port}"
    return (
        f"POST {PROJECTS} HTTP/1.1\r\nHost: {port}\r\nContent-Length: 100\r\n"
        f"Expect: 100-continue\r\n{lines}\r\n"
    ).encode()


@pytest.mark.parametrize(
    ("make", "expected"),
    [(unknown, b" 403 "), (known, b" 100 "), (lambda _: BODY_TO_COME, b" 403 ")],
    ids=["unknown key", "known key", "no signature"],
)
def test_the_body_is_asked_for_when_the_head_is_right(
    service: Served, make: Callable[[Served], bytes], expected: bytes
) -> None:
    say = make(service)
    if say == BODY_TO_COME:
        say = HEAD + b"Content-Length: 1000000\r\nExpect: 100-continue\r\n\r\n"
    with strangers(service.port, 1, say) as (one,):
        assert expected in one.recv(10_000).splitlines()[0]


def test_a_call_at_work_keeps_its_place(service: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "CONNECTIONS", 3)
    say = known(service)
    with strangers(service.port, 1, say) as (caller,):
        assert b" 100 " in caller.recv(10_000)
        with strangers(service.port, 10, b"") as held:
            assert is_closed(held[0])
            caller.sendall(b"x" * 100)
            assert b"SerializationException" in caller.recv(10_000)
