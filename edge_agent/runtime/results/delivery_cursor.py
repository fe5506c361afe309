"""A cursor for each model: which of its events a sink gets next, and what is in flight.

Events of a model are sent in order. When more has piled up than can be sent while results are still
fresh, the cursor splits: new results go first, the backlog follows in order at a limited rate,
marked `late`.
"""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import NamedTuple, Optional

from edge_agent.runtime.results.sink import NotAnswered
from edge_agent.runtime.results.spool.database import StoredEvent

FRESH_S = 2.0  # how old a live result may be when it is sent
ANSWER_WITHIN_S = 660.0  # sinks have shorter limits of their own


@dataclass
class FailureCount:
    """How often the message at the cursor has failed.

    Unless the message is `certain` to be at fault, a try counts only when another message has
    arrived since the last one: a network that is down is no message's fault.
    """

    sequence: int = 0
    tries: int = 0
    others_passed: bool = True
    alarm_raised: bool = False  # since the last try: that nothing passes

    def add(self, sequence: int, certain: bool) -> int:
        """Count a failure; returns how many tries count."""
        if sequence != self.sequence:
            self.sequence, self.tries, self.others_passed = sequence, 0, True
        if certain or self.others_passed:
            self.tries, self.others_passed, self.alarm_raised = self.tries + 1, False, False
        return self.tries


@dataclass
class DeliveryCursor:
    """Where one sink stands in one model's events; positions are sequence numbers."""

    live: int = 0  # up to here delivered, or part of the backlog
    arrived: int = 0  # the highest that has arrived; a lower one sent later is late
    end: int = 0  # the last event there is
    sent_live: int = 0  # in this round, before the backlog's
    backlog_at: Optional[int] = None  # backlog delivered up to here; None: there is no backlog
    split: int = 0  # the backlog's last event
    failures: FailureCount = field(default_factory=FailureCount)
    not_before: float = 0.0  # monotonic seconds
    stuck: bool = False  # its last message failed

    def rewind(self) -> None:
        """Begin at the first event again: older ones were recovered."""
        self.live, self.backlog_at = 0, None

    @property
    def has_more(self) -> bool:
        """Whether there may be something to send."""
        return self.live < self.end or self.backlog_at is not None

    def split_off_backlog(self) -> None:
        """Make everything up to the end the backlog; live results go first from now on."""
        if self.backlog_at is None:
            self.backlog_at = self.live
        self.split = self.live = self.end

    def end_backlog(self) -> None:
        """Go on without a backlog."""
        self.backlog_at = None


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
        """Record that `count` were sent."""
        self._tokens -= count

    def next_in_s(self) -> float:
        """Return how long it takes until one more may be sent."""
        return max(0.0, (1.0 - self._tokens) / self._per_s)


class MessageInFlight(NamedTuple):
    """A message that was sent; `future` is None when the sink didn't take it."""

    cursor: DeliveryCursor
    entry: StoredEvent
    backlog: bool
    future: Optional[Future[None]]
    refusal: Optional[Exception] = None

    def failure(self) -> Optional[BaseException]:
        """Return why it didn't arrive, None when it did."""
        if self.future is None:
            return self.refusal
        if not self.future.done():
            return NotAnswered(f"No answer within {ANSWER_WITHIN_S:.0f} s.")
        return self.future.exception()

    def arrived(self) -> None:
        """Move the cursor past it."""
        self.cursor.stuck = False
        self.cursor.arrived = max(self.cursor.arrived, self.entry.sequence)
        if self.backlog:
            self.cursor.backlog_at = self.entry.sequence
        else:
            self.cursor.live = self.entry.sequence
