"""Whether a process that died is started again, and when."""

from __future__ import annotations

import time
from typing import Callable, List, Optional, Sequence

PAUSES_S = (0.0, 1.0, 2.0)  # before the first restart, the second one ...; further ones: none
WITHIN_S = 60.0  # of work; deaths before that don't count


class RestartPolicy:
    """Counts deaths; one of them is nothing, many of them within a little work are too much.

    Only the time from a process's first success to its last is work: one that hangs, or dies before
    it has done anything, isn't forgiven for taking long to do so.
    """

    def __init__(
        self,
        pauses_s: Sequence[float] = PAUSES_S,
        within_s: float = WITHIN_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pauses_s, self._within_s, self._clock = pauses_s, within_s, clock
        self._worked_s = 0.0
        self._last_success: Optional[float] = None  # of this process
        self._deaths: List[float] = []  # the work done until each of them, in seconds

    def __str__(self) -> str:
        return f"{len(self._deaths)} times within {self._within_s:g} s of work"

    def succeeded(self) -> None:
        """Note a success."""
        now = self._clock()
        self._worked_s += 0.0 if self._last_success is None else now - self._last_success
        self._last_success = now

    def pause_s(self) -> Optional[float]:
        """Count a death; return how long to wait until the next start, None: there is none."""
        now = self._worked_s
        self._deaths = [*(death for death in self._deaths if now - death < self._within_s), now]
        self._last_success = None
        count = len(self._deaths)
        return self._pauses_s[count - 1] if count <= len(self._pauses_s) else None
