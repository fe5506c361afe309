"""Connections to one runtime: as many as there are calls at a time, kept for the next ones."""

from __future__ import annotations

import contextlib
import threading
from typing import Iterator, List

from edge_agent.client import Client


class ClientPool:
    """Lends clients of the runtime at `address`, each to one thread at a time.

    timeout_s: of each call, in seconds.
    """

    def __init__(self, address: str, timeout_s: float) -> None:
        self._address, self._timeout_s = address, timeout_s
        self._lock = threading.Lock()
        self._idle: List[Client] = []
        self._is_closed = False

    @contextlib.contextmanager
    def client(self) -> Iterator[Client]:
        """Lend a client for as long as the context is open."""
        with self._lock:
            lent = self._idle.pop() if self._idle else Client(self._address, self._timeout_s)
        try:
            yield lent
        finally:
            self._take_back(lent)

    def close(self) -> None:
        """Close the idle clients; those that are lent are closed when they come back."""
        with self._lock:
            self._is_closed = True
            idle, self._idle = self._idle, []
        for each in idle:
            each.close()

    def _take_back(self, client: Client) -> None:
        with self._lock:
            if not self._is_closed:
                self._idle.append(client)
                return
        client.close()
