"""When this process stood still: stopped, frozen with its container, its machine paused or starved.

The monotonic clock goes on meanwhile (not while a machine is suspended), so that engines, callers
and child processes would be blamed for time in which nobody ran. Whoever judges them asks for
`ran_s`. A thread notes that time goes by; that it is late shows a stall, to those as well who look
before the thread itself runs again.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from concurrent.futures import Future
from concurrent.futures import TimeoutError as TooLate
from typing import Callable, NamedTuple, Tuple, TypeVar

log = logging.getLogger(__name__)

BEAT_EVERY_S = 0.25
LATE_S = 1.0  # after a beat; a thread that is ready to run gets its turn much sooner
KEPT = 16  # stalls
T = TypeVar("T")


class _Seen(NamedTuple):
    """The last beat, the latest stalls (begin, end), and seconds of those that aren't kept."""

    beat: float = math.inf
    stalls: Tuple[Tuple[float, float], ...] = ()
    before_s: float = 0.0


class StallWatch:
    """Sees stalls from `start` on; times are seconds of `clock`."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen = _Seen()

    def start(self) -> None:
        """Begin to watch, until the process ends."""
        self.beat()
        threading.Thread(target=self._work, name="stall-watch", daemon=True).start()

    def beat(self) -> None:
        """Note that the process runs."""
        now, seen = self._clock(), self._seen
        if now - seen.beat <= LATE_S:
            self._seen = seen._replace(beat=now)
            return
        stalls = (*seen.stalls, (seen.beat, now))
        gone_s = sum(end - begin for begin, end in stalls[:-KEPT])
        self._seen = _Seen(now, stalls[-KEPT:], seen.before_s + gone_s)
        log.warning(
            "The agent stood still for %.1f s: it was stopped, or this machine was paused or "
            "overloaded. Calls and engines aren't blamed for this time.",
            now - seen.beat,
        )

    def stood_still_s(self, since: float) -> float:
        """Return for how long the process stood still since then."""
        seen, now = self._seen, self._clock()  # in this order: a beat is never after now
        stalls = seen.stalls
        if now - seen.beat > LATE_S:
            stalls = (*stalls, (seen.beat, now))
        still_s = sum(max(0.0, end - max(begin, since)) for begin, end in stalls)
        return still_s + (seen.before_s if stalls and since < stalls[0][0] else 0.0)

    def ran_s(self, since: float) -> float:
        """Return for how long the process ran since then; since 0, a clock of its running."""
        return self._clock() - since - self.stood_still_s(since)

    def _work(self) -> None:
        while True:
            time.sleep(BEAT_EVERY_S)
            self.beat()


WATCH = StallWatch()  # of this process
ran_s, stood_still_s = WATCH.ran_s, WATCH.stood_still_s


def result(future: Future[T], within_s: float) -> T:
    """Return the future's result. Raises what it failed with, TooLate after `within_s` of running.

    Time in which this process stood still isn't counted.
    """
    began, left_s = time.monotonic(), within_s
    while True:
        try:
            return future.result(left_s)
        except TooLate:
            if future.done():
                return future.result()
            left_s = within_s - ran_s(began)
            if left_s <= 0.0:
                raise


class Alarm(threading.Thread):
    """Calls `function` once this process ran for `after_s`, unless it is cancelled before."""

    def __init__(self, after_s: float, function: Callable[[], object]) -> None:
        super().__init__(name="alarm", daemon=True)
        self._after_s, self._function = after_s, function
        self._cancelled = threading.Event()

    def run(self) -> None:
        """See the class."""
        began, left_s = time.monotonic(), self._after_s
        while left_s > 0.0:
            if self._cancelled.wait(left_s):
                return
            left_s = self._after_s - ran_s(began)
        self._function()

    def cancel(self) -> None:
        """Let it go without a call, if it isn't too late."""
        self._cancelled.set()
