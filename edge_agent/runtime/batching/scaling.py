"""How many inference units a model should have: a decision without threads, clocks or I/O."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

from edge_agent.runtime.batching.batcher import QueueLoad

BUSY = 0.9  # of all units' time: more comes than they can do
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0  # between attempts to replace a unit that was lost
SPARE = 0.7  # of the remaining units' time: one fewer would still have room


@dataclass(frozen=True)
class Limits:
    """`minimum` to `maximum` units; one more after `up_after_s` seconds of queueing, one fewer
    after `down_after_s` seconds with one too many."""  # noqa: D205, D209

    minimum: int
    maximum: int
    up_after_s: float
    down_after_s: float


class Scaler:
    """Remembers since when there are too few or too many units.

    The next decision uses `limits` as they are then; they may be replaced.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._short_since: Optional[float] = None
        self._spare_since: Optional[float] = None
        self._replace_at, self._pause_s = 0.0, FIRST_PAUSE_S
        self._instances = 0  # at the last decision

    def decide(self, now: float, load: QueueLoad) -> int:
        """Return +1, 0 or -1 units for the `load` since the last decision."""
        limits = self.limits
        before, self._instances = self._instances, load.instances
        if load.instances > before or load.instances >= limits.minimum:
            self._replace_at, self._pause_s = 0.0, FIRST_PAUSE_S
        if load.instances < limits.minimum:
            return self._add(now)
        if load.instances > limits.maximum:
            return -1
        short = load.waited > 0 and load.busy > BUSY and load.instances < limits.maximum
        spare = load.instances > limits.minimum and load.busy * load.instances < SPARE * (
            load.instances - 1
        )
        self._short_since = (self._short_since or now) if short else None
        self._spare_since = (self._spare_since or now) if spare else None
        if self._short_since is not None and now - self._short_since >= limits.up_after_s:
            self._short_since = None
            return 1
        if self._spare_since is not None and now - self._spare_since >= limits.down_after_s:
            self._spare_since = None
            return -1
        return 0

    def _add(self, now: float) -> int:
        """Ask for a unit that lacks; when that doesn't help, less and less often."""
        if now < self._replace_at:
            return 0
        self._replace_at = now + self._pause_s
        self._pause_s = min(2.0 * self._pause_s, LONGEST_PAUSE_S)
        return 1
