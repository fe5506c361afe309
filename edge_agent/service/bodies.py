"""Reads the bodies of requests, all of them within one budget of memory.

A body is needed whole before its signature can be verified, so it is read only after the head has
shown a known access key.
"""

from __future__ import annotations

import asyncio
import contextlib
from io import BytesIO
from typing import AsyncIterator

from starlette.requests import Request

from edge_agent.service.faults import Throttled
from edge_agent.service.wire.faults import RequestTooLarge, RequestTooSlow

WAIT_S = 120.0  # for all of a body
STALL_S = 20.0  # for the next part of a body
DRAIN_S = 10.0  # for a body of a refused call
DRAINED_BYTES = 64 * 2**20  # of a body that is too large
RETRY_AFTER_S = 2


class Bodies:
    """For one event loop. `budget_bytes`: of all bodies that are in memory at a time."""

    def __init__(self, budget_bytes: int) -> None:
        self._free_bytes = budget_bytes

    @contextlib.asynccontextmanager
    async def of(self, request: Request, most_bytes: int) -> AsyncIterator[bytes]:
        """Hold the body of a request, of at most `most_bytes`, until the block ends.

        Raises RequestTooLarge, RequestTooSlow, Throttled, and ClientDisconnect of Starlette.
        """
        body = BytesIO()  # gives its bytes away without a copy
        try:
            try:
                await asyncio.wait_for(self._read(request, most_bytes, body), WAIT_S)
            except asyncio.TimeoutError:
                raise RequestTooSlow(
                    f"The body must come within {WAIT_S:g} s, without a pause of {STALL_S:g} s."
                ) from None
            yield body.getvalue()
        finally:
            self._free_bytes += body.tell()

    async def _read(self, request: Request, most_bytes: int, body: BytesIO) -> None:
        parts, size = request.stream(), 0
        while size <= DRAINED_BYTES:
            try:
                part = await asyncio.wait_for(parts.__anext__(), STALL_S)
            except StopAsyncIteration:
                break
            size += len(part)
            if size <= most_bytes:
                self._take(len(part))
                body.write(part)
            else:  # goes by, so that its sender reads the answer
                self._free_bytes += body.tell()
                body.seek(0)
                body.truncate()
        if size > most_bytes:
            raise RequestTooLarge(f"The body must be of at most {most_bytes} bytes.")

    def _take(self, size: int) -> None:
        if size > self._free_bytes:
            raise Throttled(
                "The service holds as many requests as its memory allows. Call again.",
                RETRY_AFTER_S,
            )
        self._free_bytes -= size


async def drain(request: Request) -> None:
    """Let the body of a refused call go by, so that its sender reads the answer.

    A client that waits for a word before it sends its body is answered at once. Raises
    ClientDisconnect of Starlette.
    """
    if "expect" in request.headers:
        return
    with contextlib.suppress(asyncio.TimeoutError):
        await asyncio.wait_for(_discard(request), DRAIN_S)


async def _discard(request: Request) -> None:
    size = 0
    while size <= DRAINED_BYTES:
        message = await request.receive()
        size += len(message.get("body", b""))
        if not message.get("more_body", False):
            return
