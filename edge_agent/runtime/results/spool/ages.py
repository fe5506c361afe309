"""How old events are, whatever is done to the wall clock."""

from __future__ import annotations

import logging
from typing import Callable

log = logging.getLogger(__name__)

CLOCK_WAS_SET_S = 5.0  # a jump of the wall clock beyond that is a correction


class Ages:
    """A clock in seconds that goes on when the wall clock is set, and over restarts."""

    def __init__(self, clock: Callable[[], float], wall: Callable[[], float]) -> None:
        """`clock`: monotonic; `wall`: Unix seconds."""
        self._clock, self._wall = clock, wall
        self._offset_s = wall() - clock()
        self.correction_s = 0.0  # how far the wall clock was set, all in all; to be kept

    def now(self) -> float:
        """Return the seconds."""
        return self._wall() - self.correction_s

    def follow(self) -> bool:
        """Look whether the wall clock was set since the last time; called now and then."""
        offset_s = self._wall() - self._clock()
        jump_s, self._offset_s = offset_s - self._offset_s, offset_s
        if abs(jump_s) < CLOCK_WAS_SET_S:
            return False
        log.warning("The clock was set by %+.0f s; waiting results keep their ages.", jump_s)
        self.correction_s += jump_s
        return True
