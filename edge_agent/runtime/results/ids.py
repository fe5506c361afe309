"""Ids that sort by time: UUID version 7 of RFC 9562 (https://www.rfc-editor.org/rfc/rfc9562).

48 bits of Unix milliseconds, then a counter of 12 bits that makes ids of one millisecond rise
(section 6.2, method 1), then 62 random bits, which differ between runs and devices:
they are drawn once a run, because an id is made for every frame.
"""

from __future__ import annotations

import os
import threading
from typing import Callable

COUNTS = 1 << 12
VARIANT, RANDOM_BITS = 2, 62


class Ids:
    """Makes ids that only ever rise, also when the clock is set back; safe on any thread."""

    def __init__(self, wall: Callable[[], float], after: str = "") -> None:
        """`after`: the last id of an earlier run."""
        self._wall = wall
        self._lock = threading.Lock()
        self._last = _count(after) if after else 0
        random = int.from_bytes(os.urandom(8), "big") >> (64 - RANDOM_BITS)
        tail = f"{VARIANT << RANDOM_BITS | random:016x}"
        self._tail = f"{tail[:4]}-{tail[4:]}"

    def new(self) -> str:
        """Return the next id, in the usual form with dashes."""
        now = int(self._wall() * 1000) * COUNTS
        with self._lock:
            self._last = last = max(self._last + 1, now)
        time = f"{last // COUNTS:012x}"
        return f"{time[:8]}-{time[8:]}-7{last % COUNTS:03x}-{self._tail}"


def _count(id_: str) -> int:
    """Return the milliseconds and the counter of an id, as one number."""
    number = int(id_.replace("-", ""), 16)
    return (number >> 80) * COUNTS + (number >> 64 & COUNTS - 1)
