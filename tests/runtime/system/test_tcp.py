from __future__ import annotations

import socket
from contextlib import contextmanager
from typing import Iterator

import pytest
from pydantic import ValidationError

from edge_agent.config import ServerSettings
from edge_agent.errors import InvalidConfiguration
from edge_agent.runtime.system import tcp

V4, V6 = socket.AF_INET, socket.AF_INET6


@contextmanager
def taken(host: str, shared: bool = False) -> Iterator[int]:
    """A port at which a program listens on one address only."""
    family = V6 if ":" in host else V4
    with socket.socket(family) as listener:
        if family == V6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if shared:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind((host, 0))
        listener.listen(1)
        yield listener.getsockname()[1]


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("127.0.0.1", "localhost"), ("::1", "localhost"), ("127.0.0.1", "0.0.0.0"),
        ("::1", "0.0.0.0"), ("::", "0.0.0.0"), ("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "[::]"),
        ("::1", "[::1]"),
    ],
)  # fmt: skip
def test_a_port_that_is_taken_on_one_of_the_addresses_is_refused(
    theirs: str, ours: str, shared: bool
) -> None:
    with taken(theirs, shared) as port, pytest.raises(InvalidConfiguration) as caught:
        tcp.free_addresses(f"{ours}:{port}")
    assert str(caught.value).startswith(f"Can't listen on {ours}:{port}: on ")
    assert "another program listens there; stop it, or choose another port" in str(caught.value)


@pytest.mark.parametrize(
    ("ours", "words"),
    [
        ("192.0.2.1:5000", "this machine doesn't have that address"),
        ("no-such-host.invalid:5000", "no address is known for 'no-such-host.invalid'"),
        (f"{'x' * 70}.invalid:5000", "no address is known"),
    ],
)
def test_an_address_of_others_is_refused(ours: str, words: str) -> None:
    with pytest.raises(InvalidConfiguration, match=words):
        tcp.free_addresses(ours)


def test_a_free_port_is_named_in_numbers_on_all_its_addresses() -> None:
    with taken("127.0.0.1") as port:
        pass
    assert f"127.0.0.1:{port}" in tcp.free_addresses(f"localhost:{port}")
    assert tcp.free_addresses(f"0.0.0.0:{port}") == [f"0.0.0.0:{port}"]


@pytest.mark.parametrize("port", ["0", "65536", "99999", "123456789"])
@pytest.mark.parametrize("setting", ["tcp", "metrics"])
def test_a_port_out_of_range_is_refused(setting: str, port: str) -> None:
    with pytest.raises(ValidationError, match="the port must be 1 to 65535"):
        ServerSettings(**{setting: f"localhost:{port}"})
