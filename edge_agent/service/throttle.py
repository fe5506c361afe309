"""How often an account may call: a token bucket for each account and operation, in memory.

As with the original, DetectAnomalies is left out: inference units say how much a model takes.
"""

from __future__ import annotations

import math
import threading
import time
from typing import Callable, Dict, Tuple

from edge_agent.service.faults import Throttled

UNLIMITED = ("DetectAnomalies",)
ROUNDING_S = 1e-6


class Throttle:
    """Lets `burst` calls through at once, and `calls_per_s` in the long run; for any thread."""

    def __init__(
        self, calls_per_s: float, burst: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`clock`: seconds, never set back."""
        self._calls_per_s = calls_per_s
        self._burst = burst
        self._clock = clock
        self._lock = threading.Lock()
        self._full_at: Dict[Tuple[str, str], float] = {}  # when each bucket would be full again

    def take(self, account: str, operation: str) -> None:
        """Let one call through, or raise Throttled with the seconds to wait; never waits itself."""
        if operation in UNLIMITED:
            return
        with self._lock:
            now = self._clock()
            full_at = max(self._full_at.get((account, operation), now), now)
            after_this = full_at + 1 / self._calls_per_s
            wait_s = after_this - (now + self._burst / self._calls_per_s)
            if wait_s <= ROUNDING_S:
                self._full_at[account, operation] = after_this
                return
        raise Throttled(
            f"Too many calls of {operation}: at most {self._calls_per_s:g} a second are allowed. "
            "Call again later, or raise the service's setting quotas.calls_per_s.",
            math.ceil(wait_s),
        )
