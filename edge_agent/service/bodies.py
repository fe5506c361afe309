"""Reads the bodies of requests, all of them within one budget of memory.

A body is needed whole before its signature can be verified, so that strangers can send any.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import AsyncIterator, List

from starlette.requests import Request

from edge_agent.service.faults import Throttled
from edge_agent.service.wire.faults import RequestTooLarge, RequestTooSlow

WAIT_S = 120.0  # for all of a body
DRAINED_BYTES = 64 * 2**20  # of a body that is too large, so that its sender reads the answer
RETRY_AFTER_S = 2


class Bodies:
    """For one event loop. `budget_bytes`: of all bodies that are in memory at a time."""

    def __init__(self, budget_bytes: int) -> None:
        self._free_bytes = budget_bytes

    @asynccontextmanager
    async def of(self, request: Request, most_bytes: int) -> AsyncIterator[bytes]:
        """Hold the body of a request, of at most `most_bytes`, until the block ends.

        Raises RequestTooLarge, RequestTooSlow, Throttled, and ClientDisconnect of Starlette.
        """
        parts: List[bytes] = []
        try:
            try:
                await asyncio.wait_for(self._read(request, most_bytes, parts), WAIT_S)
            except asyncio.TimeoutError:
                raise RequestTooSlow(f"The body didn't come within {WAIT_S:g} s.") from None
            yield b"".join(parts)
        finally:
            self._free_bytes += sum(map(len, parts))

    async def _read(self, request: Request, most_bytes: int, parts: List[bytes]) -> None:
        size = 0
        async for part in request.stream():
            size += len(part)
            if size > DRAINED_BYTES:
                break
            if size > most_bytes:
                continue
            if len(part) > self._free_bytes:
                raise Throttled(
                    "The service holds as many requests as its memory allows. Call again.",
                    RETRY_AFTER_S,
                )
            self._free_bytes -= len(part)
            parts.append(part)
        if size > most_bytes:
            raise RequestTooLarge(f"The body must be of at most {most_bytes} bytes.")
