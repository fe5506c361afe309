"""How long a batch takes, as far as the last ones tell."""

from __future__ import annotations

from collections import deque
from typing import Deque, Tuple

REMEMBERED = 32  # batches,
REMEMBERED_S = 10.0  # and for how long the last of them counts


class Pace:
    """Remembers the last batches; times are monotonic seconds."""

    def __init__(self) -> None:
        self._recent: Deque[Tuple[float, int]] = deque()  # seconds, frames
        self._total_s, self._total = 0.0, 0
        self._noted = 0.0
        self._least_s = 0.0
        self.frame_s = 0.0  # how long one instance takes for a frame on average; 0: unknown

    def note(self, now: float, seconds: float, frames: int) -> None:
        """Remember a batch that ended `now`. Runs for every frame, hence the running sums."""
        if now - self._noted > REMEMBERED_S:
            self._recent.clear()
            self._total_s, self._total = 0.0, 0
        self._noted = now
        self._recent.append((seconds, frames))
        self._total_s += seconds
        self._total += frames
        if len(self._recent) == 1 or seconds < self._least_s:
            self._least_s = seconds
        if len(self._recent) > REMEMBERED:
            gone_s, gone = self._recent.popleft()
            self._total_s -= gone_s
            self._total -= gone
            if gone_s <= self._least_s:
                self._least_s = min(seconds for seconds, _ in self._recent)
        self.frame_s = self._total_s / self._total

    def least_s(self, now: float) -> float:
        """Return how long a frame takes at least; 0 when that isn't known of late."""
        return self._least_s if now - self._noted <= REMEMBERED_S else 0.0
