"""One budget of bytes for all calls: bodies that come in, frames at work, answers that go out.

A call holds a lease from its first byte to its last. While it waits for its caller (a body that
does not end, an answer that nobody reads) the lease is one that can be cancelled: after its time
limit always, and after `GRACE_S` when another call needs the room, the one that waits longest
first. Whoever finds no room even so is refused at once.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import CancelledError
from contextlib import suppress
from typing import Callable, Dict, List, Optional

from edge_agent.errors import CallsTakeTooMuch

GRACE_S = 0.5  # a caller that is slower than this makes room for others when memory is short
MIB = 1024 * 1024


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

    def add(self, size: int) -> None:
        """Hold `size` bytes more. Raises as `resize`."""
        self._budget.resize(self, self.size + size, 0.0)

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
        self.since = self.due = None

    def end(self) -> None:
        """Give everything back."""
        self._budget.end(self)


class MemoryBudget:
    """Bytes that calls may hold together. Its methods may be called on any thread."""

    def __init__(self, limit_bytes: int, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock`: monotonic, seconds."""
        self.limit_bytes = limit_bytes
        self.clock = clock
        self.evicted = self.overdue = self.refused = 0  # calls, since the start
        self._changed = threading.Condition()
        self._used = self._peak = 0
        self._leases: Dict[Lease, None] = {}  # in the order they began

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
        end = self.clock() + within_s if within_s else 0.0
        while True:
            with self._changed:
                if lease not in self._leases:
                    raise CancelledError
                if self._used + size - lease.size <= self.limit_bytes or size <= lease.size:
                    self._hold(lease, size)
                    return
                victims = self._evict(self._used + size - lease.size - self.limit_bytes)
                if not victims:
                    left_s = end - self.clock()
                    if left_s <= 0.0:
                        self.refused += 1
                        raise CallsTakeTooMuch.beside(size, self._used, self.limit_bytes)
                    self._changed.wait(min(left_s, GRACE_S / 4))
            for victim in victims:  # outside the lock: it may run what the call left to do
                victim.cancel()

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
            late = [lease for lease in self._leases if lease.due is not None and lease.due < now]
            self.overdue += len(late)
            for lease in late:
                self._drop(lease)
        for lease in late:
            lease.cancel()
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

    def _drop(self, lease: Lease) -> None:
        self._hold(lease, 0)
        del self._leases[lease]

    def _evict(self, missing: int) -> List[Lease]:
        """Take back `missing` bytes from those who wait longest for their callers, or nothing."""
        oldest = self.clock() - GRACE_S
        slow = [lease for lease in self._leases if lease.since is not None and lease.since < oldest]
        slow.sort(key=lambda lease: lease.since or 0.0)
        chosen = []
        for lease in slow:
            if missing <= 0:
                break
            missing -= lease.size
            chosen.append(lease)
        if missing > 0:
            return []
        self.evicted += len(chosen)
        for lease in chosen:
            self._drop(lease)
        return chosen
