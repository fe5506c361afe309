"""Whether something that died is started again, and when."""

from __future__ import annotations

import time
from typing import Callable, List, Optional, Sequence

PAUSES_S = (0.0, 1.0, 2.0)  # as many deaths are survived
WITHIN_S = 60.0  # deaths longer ago don't count


class Patience:
    """Counts deaths; one of them is nothing, many of them in a short time are too much."""

    def __init__(
        self,
        pauses_s: Sequence[float] = PAUSES_S,
        within_s: float = WITHIN_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.within_s = within_s
        self._pauses_s, self._clock = pauses_s, clock
        self._deaths: List[float] = []

    @property
    def deaths(self) -> int:
        """How many count."""
        return len(self._deaths)

    def pause_s(self) -> Optional[float]:
        """Count a death; return how long to wait until the next start, None: there is none."""
        now = self._clock()
        self._deaths = [*(died for died in self._deaths if now - died < self.within_s), now]
        return self._pauses_s[self.deaths - 1] if self.deaths <= len(self._pauses_s) else None
