"""Places that calls hold while they use what there is little of."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import Iterator

from edge_agent.service.faults import Throttled

RETRY_AFTER_S = 1


class Places:
    """So many calls at a time; `wait_s`: for a place, in seconds."""

    def __init__(self, count: int, wait_s: float = 0.0) -> None:
        self._places, self._wait_s = threading.BoundedSemaphore(count), wait_s

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold a place; raises Throttled when none becomes free."""
        if not self._places.acquire(timeout=self._wait_s):
            raise Throttled("Too many images are being judged. Call again.", RETRY_AFTER_S)
        try:
            yield
        finally:
            self._places.release()
