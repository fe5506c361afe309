"""The memory that bodies of requests take together."""

from __future__ import annotations

import asyncio
import tracemalloc
from typing import Any, Dict

import pytest
from starlette.requests import ClientDisconnect, Request

from edge_agent.service.bodies import Bodies
from edge_agent.service.faults import Throttled
from edge_agent.service.wire.faults import RequestTooLarge


def request(*parts: bytes, goes: bool = False) -> Request:
    """A request whose body comes in parts, or breaks off after them."""
    messages = [{"type": "http.request", "body": part, "more_body": True} for part in parts]
    end = {"type": "http.disconnect"} if goes else {"type": "http.request", "body": b""}
    coming = iter([*messages, end])

    async def receive() -> Dict[str, Any]:
        return next(coming)

    return Request({"type": "http"}, receive)


def test_bodies_of_all_calls_share_one_budget() -> None:
    async def run() -> None:
        bodies = Bodies(100)
        async with bodies.of(request(b"x" * 40, b"y" * 40), most_bytes=1000) as held:
            assert held == b"x" * 40 + b"y" * 40
            with pytest.raises(Throttled):
                async with bodies.of(request(b"z" * 20, b"z"), most_bytes=1000):
                    pass
            with pytest.raises(ClientDisconnect):
                async with bodies.of(request(b"z" * 20, goes=True), most_bytes=1000):
                    pass
            async with bodies.of(request(b"z" * 20), most_bytes=1000) as second:
                assert second == b"z" * 20
        async with bodies.of(request(b"a" * 100), most_bytes=1000) as whole:
            assert len(whole) == 100

    asyncio.run(run())


def test_a_body_is_in_memory_once() -> None:
    part = b"x" * 2**16
    size = 400 * len(part)

    async def run() -> int:
        async with Bodies(size).of(request(*[part] * 400), most_bytes=size) as held:
            assert len(held) == size
        return tracemalloc.get_traced_memory()[1]

    tracemalloc.start()
    try:
        assert asyncio.run(run()) < 1.6 * size
    finally:
        tracemalloc.stop()


def test_what_is_too_large_goes_by_without_being_held() -> None:
    async def run() -> None:
        bodies = Bodies(100)
        with pytest.raises(RequestTooLarge, match="at most 90 bytes"):
            async with bodies.of(request(*[b"x" * 40] * 50), most_bytes=90):
                pass
        async with bodies.of(request(b"a" * 100), most_bytes=100) as whole:
            assert len(whole) == 100

    asyncio.run(run())
