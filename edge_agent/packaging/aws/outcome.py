"""How something that was waited for ended, and the waiting."""

from __future__ import annotations

import time
from typing import Iterator, NamedTuple

EVERY_S = 5.0


class Outcome(NamedTuple):
    """Whether it went well, and the sentence to say."""

    good: bool
    sentence: str


def looks(wait_s: float) -> Iterator[None]:
    """Yield at once, then every few seconds, for the last time when `wait_s` are over."""
    end = time.monotonic() + wait_s
    yield
    while time.monotonic() < end:
        time.sleep(max(0.0, min(EVERY_S, end - time.monotonic())))
        yield
