"""One lane a model: which of its events goes next.

Events of a model go in order. When more has piled up than can be drained while results are still
fresh, the lane splits: what comes from now on goes first, what lies behind follows in order at a
limited rate, marked `late`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Optional

FRESH_S = 2.0  # how old a live result may be when it leaves


@dataclass
class Failures:
    """Of the message a lane can't get past.

    Unless the message is `certain` to be at fault, a try counts only when something else has passed
    since the try before: a network that is down makes no message suspicious.
    """

    sequence: int = 0
    tries: int = 0
    others_passed: bool = True
    asked: bool = False  # whether anything passes at all

    def add(self, sequence: int, certain: bool) -> int:
        """Note a failure; returns how many tries count."""
        if sequence != self.sequence:
            self.sequence, self.tries, self.others_passed = sequence, 0, True
        if certain or self.others_passed:
            self.tries, self.others_passed, self.asked = self.tries + 1, False, False
        return self.tries


@dataclass
class Lane:
    """Where one sink stands in one model's events; positions are sequence numbers."""

    live: int = 0  # delivered up to here, or left to the backlog
    arrived: int = 0  # the last that has arrived; what comes behind it is late
    end: int = 0  # the last event there is
    sent_live: int = 0  # in this round, before the backlog's
    behind: Optional[int] = None  # backlog delivered up to here; None: there is no backlog
    split: int = 0  # the backlog's last event
    failures: Failures = field(default_factory=Failures)
    not_before: float = 0.0  # monotonic seconds
    stuck: bool = False  # its last message failed

    def begin_anew(self) -> None:
        """Look at everything again: older events have come into view."""
        self.live, self.behind = 0, None

    @property
    def waits(self) -> bool:
        """Whether there may be something to send."""
        return self.live < self.end or self.behind is not None

    def divide(self) -> None:
        """Leave everything up to the end to the backlog; live results go first from now on."""
        if self.behind is None:
            self.behind = self.live
        self.split = self.live = self.end

    def drained(self) -> None:
        """Go on as one: nothing lies behind any more."""
        self.behind = None


class DrainRate:
    """How many events of backlogs may be sent now: a token bucket holding a second's worth."""

    def __init__(self, per_s: float, now: float) -> None:
        self._per_s, self._tokens, self._since = per_s, 1.0, now

    def allows(self, now: float) -> int:
        """Return how many may be sent."""
        self._tokens += (now - self._since) * self._per_s
        self._tokens, self._since = min(self._tokens, max(1.0, self._per_s)), now
        return int(self._tokens)

    def take(self, count: int) -> None:
        """Note that `count` were sent."""
        self._tokens -= count

    def next_in_s(self) -> float:
        """Return how long it takes until one more may be sent."""
        return max(0.0, (1.0 - self._tokens) / self._per_s)
