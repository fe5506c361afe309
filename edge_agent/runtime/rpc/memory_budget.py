"""A budget of bytes that calls share.

A call holds a lease on it until it is over. While it waits for its caller (a body that does not
end, an answer that nobody reads) it can be cancelled: after its time limit always, and when another
call needs the room as soon as it takes several times as long as callers usually do, the one that
waits longest first. A call that finds no room even so is refused, at once when waiting is in vain.
Of the calls that wait the newest is served first, because many that stall would otherwise block
the others. A part of the budget can be reserved for calls that need little.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import CancelledError
from contextlib import suppress
from typing import Callable, Dict, List, Optional

from edge_agent.errors import CallsTakeTooMuch
from edge_agent.runtime.system import stalls

GRACE_S = 0.1  # the least that a caller may take before it makes room for others
TIMES_AS_LONG = 4.0  # as usual
USUAL_S = 0.25  # until callers have shown what is usual
FORGET = 0.95  # of what is usual, with each caller who was quicker
MIB = 1024 * 1024
SMALL_BYTES = MIB
MOST_WAITING = 64  # for room; the one that waits longest is refused for the next


class Lease:
    """The bytes of one call. Give them back with `end`; more than once does no harm."""

    __slots__ = ("_budget", "cancel", "due", "since", "size")

    def __init__(self, budget: MemoryBudget, cancel: Callable[[], object]) -> None:
        self._budget = budget
        self.size = 0
        self.cancel = cancel
        self.since: Optional[float] = None  # when the call began to wait for its caller
        self.due: Optional[float] = None  # when that must be over; None: never

    def resize(self, size: int, within_s: float = 0.0) -> None:
        """Hold `size` bytes from now on, and wait up to `within_s` for room.

        Raises CallsTakeTooMuch, and holds what it held; CancelledError when the call was cancelled.
        """
        self._budget.resize(self, size, within_s)

    def add(self, size: int, within_s: float = 0.0) -> None:
        """Hold `size` bytes more. Waits and raises as `resize`."""
        self._budget.resize(self, self.size + size, within_s)

    def shrink(self, size: int) -> None:
        """Hold at most `size` bytes."""
        with suppress(CancelledError):
            self._budget.resize(self, min(size, self.size), 0.0)

    def wait_for_caller(self, limit_s: float) -> None:
        """Mark that it is the caller's turn, for `limit_s` at most."""
        self.since = self._budget.clock()
        self.due = self.since + limit_s

    def work(self) -> None:
        """Mark that it is the agent's turn: the call cannot be cancelled."""
        self._budget.answered(self)
        self.since = self.due = None

    def end(self) -> None:
        """Give everything back."""
        self._budget.end(self)

    def done(self) -> None:
        """Mark that the call is over as it should be, and give everything back."""
        self.work()
        self.end()


class MemoryBudget:
    """Bytes that calls may hold together. Its methods may be called on any thread."""

    def __init__(
        self,
        limit_bytes: int,
        kept_for_small_bytes: int = 0,
        clock: Callable[[], float] = time.monotonic,
        stood_still_s: Callable[[float], float] = stalls.stood_still_s,
    ) -> None:
        """Share `limit_bytes`, of which requests beyond `SMALL_BYTES` leave a part.

        clock: monotonic, seconds.
        """
        self.limit_bytes = limit_bytes
        self.clock, self._stood_still_s = clock, stood_still_s
        self._limit_of_large_bytes = limit_bytes - kept_for_small_bytes
        self.evicted = self.overdue = self.refused = 0  # calls, since the start
        self._changed = threading.Condition()
        self._used = self._peak = 0
        self._usual_s = USUAL_S
        self._leases: Dict[Lease, None] = {}  # in the order they began
        self._waiting: List[Lease] = []  # for room; the last one is served first

    @property
    def used_bytes(self) -> int:
        """What all calls hold now."""
        return self._used

    def lease(self, cancel: Callable[[], object]) -> Lease:
        """Return a lease that holds nothing yet; `cancel` ends its call, from any thread."""
        lease = Lease(self, cancel)
        with self._changed:
            self._leases[lease] = None
        return lease

    def resize(self, lease: Lease, size: int, within_s: float) -> None:
        """Let `lease` hold `size` bytes, and wait up to `within_s` for them.

        Raises CallsTakeTooMuch, and CancelledError when the lease was taken back meanwhile.
        """
        end = self.clock() + within_s
        with self._changed:
            while (missing := self._missing(lease, size)) > 0:
                victims = self._evict(missing)
                if victims:
                    self._cancel(victims)
                elif self.clock() >= end or self._stalled_bytes() < missing:
                    self.refused += 1
                    raise CallsTakeTooMuch.beside(size, self._used, self.limit_bytes)
                else:
                    self._wait(lease, size, end)
            self._hold(lease, size)

    def answered(self, lease: Lease) -> None:
        """Learn from how long the caller of `lease` took, if it was the caller's turn."""
        if lease.since is not None:
            took_s = self.clock() - lease.since
            if took_s > stalls.LATE_S:
                took_s -= self._stood_still_s(lease.since)
            self._usual_s = max(took_s, FORGET * self._usual_s)  # racing threads do no harm

    def end(self, lease: Lease) -> None:
        """Take the bytes of `lease` back."""
        with self._changed:
            if lease in self._leases:
                self._hold(lease, 0)
                del self._leases[lease]

    def cancel_overdue(self) -> int:
        """Cancel calls whose caller has had its time; return how many."""
        now = self.clock()
        with self._changed:
            late = [
                lease
                for lease in self._leases
                if lease.since is not None
                and lease.due is not None
                and lease.due < now
                and lease.due + self._stood_still_s(lease.since) < now
            ]
            self.overdue += len(late)
            self._cancel(late)
        return len(late)

    def take_peak(self) -> int:
        """Return the most bytes that were held at a time since the last call of this."""
        with self._changed:
            peak, self._peak = self._peak, self._used
        return peak

    def _hold(self, lease: Lease, size: int) -> None:
        self._used += size - lease.size
        shrinks, lease.size = size < lease.size, size
        self._peak = max(self._peak, self._used)
        if shrinks:
            self._changed.notify_all()

    def _missing(self, lease: Lease, size: int) -> int:
        """Return how many bytes must be freed before `lease` can hold `size`; at most 0: none."""
        if lease not in self._leases:
            raise CancelledError
        growth = size - lease.size
        if growth <= 0:
            return 0
        limit = self.limit_bytes if growth <= SMALL_BYTES else self._limit_of_large_bytes
        return self._used + growth - limit

    def _wait(self, lease: Lease, size: int, end: float) -> None:
        """Wait for a change until it is this lease's turn to look again, or `end` has come.

        Raises CallsTakeTooMuch when too many have come to wait since.
        """
        self._waiting.append(lease)
        if len(self._waiting) > MOST_WAITING:
            del self._waiting[0]
        try:
            while True:
                self._changed.wait(min(GRACE_S / 4, max(0.0, end - self.clock())))
                if lease not in self._waiting:
                    self.refused += 1
                    raise CallsTakeTooMuch.beside(size, self._used, self.limit_bytes)
                if self._waiting[-1] is lease or self.clock() >= end:
                    return
        finally:
            if lease in self._waiting:
                self._waiting.remove(lease)

    def _stalled_bytes(self) -> int:
        return sum(lease.size for lease in self._leases if lease.since is not None)

    def _cancel(self, leases: List[Lease]) -> None:
        """Take back what `leases` hold and end their calls, without the lock meanwhile."""
        for lease in leases:
            lease.since = None  # nothing is to be learned from it
            self._hold(lease, 0)
            del self._leases[lease]
        self._changed.release()
        try:
            for lease in leases:
                lease.cancel()
        finally:
            self._changed.acquire()

    def _evict(self, missing: int) -> List[Lease]:
        """Choose who waits longest for their callers, for `missing` bytes in all, or nobody."""
        oldest = self.clock() - max(GRACE_S, TIMES_AS_LONG * self._usual_s)
        slow = [
            lease
            for lease in self._leases
            if lease.since is not None
            and lease.since < oldest
            and lease.since + self._stood_still_s(lease.since) < oldest
        ]
        chosen: List[Lease] = []
        for lease in sorted(slow, key=lambda lease: lease.since or 0.0):
            if missing <= 0:
                break
            missing -= lease.size
            chosen.append(lease)
        if missing > 0:
            return []
        self.evicted += len(chosen)
        return chosen
