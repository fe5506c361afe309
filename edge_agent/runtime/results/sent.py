"""A message on its way to a sink, and what becomes of its lane when it has arrived."""

from __future__ import annotations

from concurrent.futures import Future
from typing import NamedTuple, Optional

from edge_agent.runtime.results.lanes import Lane
from edge_agent.runtime.results.sink import NotAnswered
from edge_agent.runtime.results.spool.database import Entry

ANSWER_WITHIN_S = 660.0  # sinks have shorter limits of their own


class Sent(NamedTuple):
    """One message on its way; `future` is None when the sink took it not at all."""

    lane: Lane
    entry: Entry
    backlog: bool
    future: Optional[Future[None]]
    refusal: Optional[Exception] = None

    def failure(self) -> Optional[BaseException]:
        """Return why it didn't arrive, None when it did."""
        if self.future is None:
            return self.refusal
        if not self.future.done():
            return NotAnswered(f"There was no answer within {ANSWER_WITHIN_S:.0f} s.")
        return self.future.exception()

    def arrived(self) -> None:
        """Move the lane past it."""
        self.lane.stuck = False
        self.lane.arrived = max(self.lane.arrived, self.entry.sequence)
        if self.backlog:
            self.lane.behind = self.entry.sequence
        else:
            self.lane.live = self.entry.sequence
