"""What is computed next: decisions without threads, clocks or I/O."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Deque, List

from edge_agent.errors import DeadlineExceeded, Overloaded
from edge_agent.types import Caller


@dataclass(frozen=True)
class Item:
    """A frame to compute: its work, when it came (monotonic seconds), who waits, its own future."""

    work: Any
    arrived: float
    caller: Caller
    future: Future[Any] = field(default_factory=Future)

    def check(self, now: float) -> None:
        """Raise DeadlineExceeded when nobody waits for it any more."""
        if self.caller.deadline is not None and self.caller.deadline <= now:
            waited_ms = 1000 * (now - self.arrived)
            raise DeadlineExceeded(f"The deadline passed after {waited_ms:.0f} ms in the queue.")


class Queue:
    """First come, first served, at most `capacity` items."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._items: Deque[Item] = deque()

    def __len__(self) -> int:
        return len(self._items)

    def offer(self, item: Item) -> None:
        """Append `item`. Raises Overloaded at once when the queue is full."""
        if len(self._items) >= self._capacity:
            self._items = deque(item for item in self._items if not item.future.cancelled())
        if len(self._items) >= self._capacity:
            raise Overloaded(
                f"The model can't keep up with the rate of calls: {len(self._items)} frames are "
                "waiting. Call less often, or retry after a short wait."
            )
        self._items.append(item)

    def take(self, now: float, limit: int) -> List[Item]:
        """Remove and return up to `limit` items to compute now.

        Cancelled items are skipped; late ones are resolved with DeadlineExceeded. Every item
        returned is marked as running, so that nobody can cancel it any more.
        """
        batch: List[Item] = []
        while self._items and len(batch) < limit:
            item = self._items.popleft()
            if not item.future.set_running_or_notify_cancel():
                continue
            try:
                item.check(now)
            except DeadlineExceeded as late:
                item.future.set_exception(late)
            else:
                batch.append(item)
        return batch
