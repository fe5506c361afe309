"""How long a batch takes, as far as the last ones tell."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Deque

REMEMBERED = 32  # batches,
REMEMBERED_S = 10.0  # and for how long


@dataclass(frozen=True)
class _Done:
    """A batch that was computed: when, how long it took, how many frames it had."""

    when: float
    seconds: float
    frames: int


class Pace:
    """Remembers the last batches; times are monotonic seconds."""

    def __init__(self) -> None:
        self._recent: Deque[_Done] = deque(maxlen=REMEMBERED)

    def note(self, now: float, seconds: float, frames: int) -> None:
        """Remember a batch that ended `now`."""
        self._recent.append(_Done(now, seconds, frames))

    def least_s(self, now: float) -> float:
        """Return how long a frame takes at least; 0 when that isn't known of late."""
        while self._recent and self._recent[0].when < now - REMEMBERED_S:
            self._recent.popleft()
        return min((done.seconds for done in self._recent), default=0.0)

    @property
    def frame_s(self) -> float:
        """How long one instance takes for a frame on average; 0 when nothing is known."""
        seconds = sum(done.seconds for done in self._recent)
        return seconds / max(1, sum(done.frames for done in self._recent))
