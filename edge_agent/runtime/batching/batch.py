"""What is computed next: decisions without threads, clocks or I/O.

Inspection goes before re-scoring. Within a priority the callers take turns (round robin), so
that one who floods the queue delays only itself. A full queue refuses the newcomer, unless another
caller takes up more than its share: then that one's newest frame is refused instead (longest queue
drop, as in fair queueing of packets: B. Suter et al., "Design considerations for supporting TCP
with per-flow queueing", INFOCOM 1998).
"""

from __future__ import annotations

from collections import OrderedDict, deque
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from typing import Deque, Dict, Generic, List, Optional, Sequence, Tuple, TypeVar

from edge_agent.errors import DeadlineExceeded, Overloaded
from edge_agent.types import Caller, Priority, StageTimes

REMEMBERED = 32  # batches,
REMEMBERED_S = 10.0  # and for how long the last of them counts at most

Work = TypeVar("Work")
Result = TypeVar("Result")


@dataclass(frozen=True, eq=False)
class Item(Generic[Work, Result]):
    """A frame to compute: its work, when it came (monotonic seconds), who waits, its own future.

    `held_bytes` is the memory of ours that it holds while it waits.
    """

    work: Work
    arrived: float
    caller: Caller
    times: StageTimes = field(default_factory=StageTimes)
    held_bytes: int = 0
    future: Future[Result] = field(default_factory=Future)

    def resolve(self, result: Result) -> None:
        """Give the caller `result`, unless it has an answer already."""
        try:
            self.future.set_result(result)
        except InvalidStateError:
            return

    def fail(self, error: Exception) -> None:
        """Give the caller `error`, unless it has an answer already."""
        try:
            self.future.set_exception(error)
        except InvalidStateError:
            return

    def check(self, now: float, needed_s: float) -> None:
        """Raise DeadlineExceeded when nobody waits any more `needed_s` after `now`."""
        if self.caller.deadline is not None and self.caller.deadline <= now + needed_s:
            waited_ms = 1000 * (now - self.arrived)
            left_ms = 1000 * max(0.0, self.caller.deadline - now)
            raise DeadlineExceeded(
                f"The deadline can't be met: {left_ms:.0f} ms are left after {waited_ms:.0f} ms "
                f"in the queue, and a frame takes {1000 * needed_s:.0f} ms."
            )


class Queue(Generic[Work, Result]):
    """At most `capacity` items that hold at most `capacity_bytes`."""

    def __init__(self, capacity: int, capacity_bytes: int) -> None:
        self._capacity, self._capacity_bytes = capacity, capacity_bytes
        self._turns: Dict[Priority, OrderedDict[str, Deque[Item[Work, Result]]]] = {
            priority: OrderedDict() for priority in Priority
        }
        self._length = self._bytes = 0

    def __len__(self) -> int:
        return self._length

    def offer(self, item: Item[Work, Result], frame_s: float) -> None:
        """Append `item`; one frame is done every `frame_s` seconds.

        Raises Overloaded at once when the queue is full and no other caller's item has to go.
        """
        if self._full(item):
            self._forget_cancelled()
        if self._full(item):
            refusal = Overloaded.behind(self._length, self._length * frame_s)
            victim = self._victim(item)
            if victim is None:
                raise refusal
            self._remove(victim)
            victim.fail(refusal)
        turns = self._turns[item.caller.priority]
        turns.setdefault(item.caller.name, deque()).append(item)
        self._length += 1
        self._bytes += item.held_bytes

    def take(self, now: float, limit: int, needed_s: float = 0.0) -> List[Item[Work, Result]]:
        """Remove and return up to `limit` items to compute now, which takes `needed_s` at least.

        Cancelled items are skipped; late ones are failed with DeadlineExceeded. Every item
        returned is marked as running, so that nobody can cancel it any more.
        """
        batch: List[Item[Work, Result]] = []
        while len(batch) < limit and self._length:
            item = self._next()
            if not item.future.set_running_or_notify_cancel():
                continue
            try:
                item.check(now, needed_s)
            except DeadlineExceeded as late:
                item.fail(late)
            else:
                batch.append(item)
        return batch

    def oldest(self) -> float:
        """Return when the longest waiting item came; the queue must not be empty."""
        return min(
            waiting[0].arrived for turns in self._turns.values() for waiting in turns.values()
        )

    def _full(self, item: Item[Work, Result]) -> bool:
        if self._length >= self._capacity:
            return True
        return self._length > 0 and self._bytes + item.held_bytes > self._capacity_bytes

    def _next(self) -> Item[Work, Result]:
        turns = next(turns for turns in self._turns.values() if turns)
        item = next(iter(turns.values()))[0]
        self._remove(item)
        if item.caller.name in turns:
            turns.move_to_end(item.caller.name)
        return item

    def _remove(self, item: Item[Work, Result]) -> None:
        turns = self._turns[item.caller.priority]
        waiting = turns[item.caller.name]
        if waiting[0] is item:
            waiting.popleft()
        else:
            waiting.remove(item)
        if not waiting:
            del turns[item.caller.name]
        self._length -= 1
        self._bytes -= item.held_bytes

    def _forget_cancelled(self) -> None:
        for turns in self._turns.values():
            for item in [item for waiting in turns.values() for item in waiting]:
                if item.future.cancelled():
                    self._remove(item)

    def _victim(self, item: Item[Work, Result]) -> Optional[Item[Work, Result]]:
        """Return the item that has to go for `item` to come, one of a caller with more waiting."""
        for priority in reversed(list(Priority)):
            turns = self._turns[priority]
            own = (
                len(turns.get(item.caller.name, ())) + 1 if priority is item.caller.priority else 0
            )
            longest: Sequence[Item[Work, Result]] = max(turns.values(), key=len, default=())
            if len(longest) > own and longest[-1].held_bytes >= item.held_bytes:
                return longest[-1]
            if priority is item.caller.priority:
                return None
        return None


class BatchDurations:
    """How long a batch takes, from the last ones; times are monotonic seconds.

    One batch that took much longer than others changes nothing: the median and the least count, and
    what a single batch shows is believed for a second, what ten show for ten.
    """

    def __init__(self) -> None:
        self._last: Deque[Tuple[float, float]] = deque()  # seconds for each frame, and of all
        self._added_at = self._least_s = 0.0

    def add(self, now: float, seconds: float, frames: int) -> None:
        """Add a batch that ended `now`. Runs for every frame, hence the running minimum."""
        self._added_at = now
        self._last.append((seconds / frames, seconds))
        if len(self._last) == 1 or seconds < self._least_s:
            self._least_s = seconds
        if len(self._last) > REMEMBERED and self._last.popleft()[1] <= self._least_s:
            self._least_s = min(seconds for _, seconds in self._last)

    @property
    def frame_s(self) -> float:
        """How long one instance takes for a frame, the median; 0 when none was computed."""
        return sorted(self._last)[len(self._last) // 2][0] if self._last else 0.0

    def least_s(self, now: float) -> float:
        """Return how long a frame takes at least; 0 when too few were computed lately."""
        believed_s = min(len(self._last), REMEMBERED_S)
        return self._least_s if now - self._added_at <= believed_s else 0.0
