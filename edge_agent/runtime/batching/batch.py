"""What is computed next: decisions without threads, clocks or I/O."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Deque, List, Optional

from edge_agent.errors import DeadlineExceeded, Overloaded


@dataclass(frozen=True)
class Item:
    """A frame waiting: its work, its own future, when it came and until when anyone waits for it.

    Times are monotonic seconds; `deadline` None means for ever.
    """

    work: Any
    arrived: float
    deadline: Optional[float] = None
    future: Future[Any] = field(default_factory=Future)


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
            if item.deadline is not None and item.deadline <= now:
                waited_ms = 1000 * (now - item.arrived)
                item.future.set_exception(
                    DeadlineExceeded(f"The deadline passed after {waited_ms:.0f} ms in the queue.")
                )
                continue
            batch.append(item)
        return batch
