"""Connections of callers, for uvicorn: strangers who say nothing, or too slowly, hold no place.

A connection waits until it has sent the head of a request and that was admitted, and again after
its answer. A head must come within `HEAD_S`. When there are more than `CONNECTIONS`, the one that
has waited longest makes room for the newest; where all are at work, the new one is answered 503,
which clients repeat.
"""

from __future__ import annotations

import asyncio
import math
import time
from typing import Any, Dict, List, Optional

from starlette.types import Scope
from uvicorn import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

CONNECTIONS = 1000
HEAD_S = 10.0
HEAD_BYTES = 2**19  # a query may have 200 tag keys of 128 characters, encoded
HEADS_BYTES = 32 * 2**20  # of all heads that aren't whole yet
LONG_HEAD_BYTES = 2**15

_KEY = "connection"  # in the state that uvicorn gives to the application


class HttpConnection(H11Protocol):
    """One connection; `Config(http=HttpConnection)` has uvicorn make them."""

    def __init__(
        self, config: Config, server_state: ServerState, app_state: Dict[str, Any], **more: Any
    ) -> None:
        super().__init__(config, server_state, {**app_state, _KEY: self}, **more)
        self.waits_since = math.inf  # of time.monotonic(); infinite: a call is at work
        self.head_bytes = 0  # of a head that isn't whole yet
        self._in_head = True
        self._timer: Optional[asyncio.TimerHandle] = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take it, in place of one that waits if there are too many."""
        super().connection_made(transport)
        self.waits_since = time.monotonic()
        self._start_timer()
        if len(self.connections) > CONNECTIONS:
            waiting = [each for each in self._others() if each.waits_since < math.inf]
            if waiting:
                min(waiting, key=lambda each: each.waits_since).drop()

    def data_received(self, data: bytes) -> None:
        """Read on; a head that has begun has a limit of time, all of them one of memory."""
        if self._in_head:
            self._start_timer()
            self.head_bytes += len(data)
            if self.head_bytes > LONG_HEAD_BYTES:
                heads = [self, *self._others()]
                if sum(each.head_bytes for each in heads) > HEADS_BYTES:
                    max(heads, key=lambda each: each.head_bytes).drop()
        super().data_received(data)

    def head_came(self) -> None:
        """Let a request have its time: its head is whole."""
        self._in_head, self.head_bytes = False, 0
        self._stop_timer()

    def admitted(self) -> None:
        """Keep the connection until its answer: the call is of somebody known."""
        self.waits_since = math.inf

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        self._in_head, self.waits_since = True, time.monotonic()
        self._stop_timer()
        super().on_response_complete()

    def connection_lost(self, exc: Optional[Exception]) -> None:
        """Forget it."""
        self._stop_timer()
        super().connection_lost(exc)

    def drop(self) -> None:
        """Close it, whatever it has to say."""
        self.waits_since, self.head_bytes = math.inf, 0
        self.transport.abort()

    def _others(self) -> List[HttpConnection]:
        return [
            each
            for each in self.connections
            if isinstance(each, HttpConnection) and each is not self
        ]

    def _start_timer(self) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(HEAD_S, self.drop)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def connection_of(scope: Scope) -> HttpConnection:
    """Return the connection that a request came on."""
    connection: HttpConnection = scope["state"][_KEY]
    return connection
