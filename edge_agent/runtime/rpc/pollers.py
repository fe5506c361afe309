"""Threads that wait for events and deal with them.

On a quiet line one thread does everything, again and again: it stays on a core whose caches are
warm and wakes nobody. A watchman looks now and then whether something came while it was at work.
When it has found something, there are as many threads as there is work, and one more that waits for
events (leader and followers: D. C. Schmidt et al., "Leader/Followers", 2000), until the line has
been quiet again for a while.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import Callable

log = logging.getLogger(__name__)

THREAD_NAME = "poller"
WAIT_S = 5.0
LOOK_EVERY_S = 0.01
WATCH_S = 1.0  # after the last work
REMEMBER_S = 60.0
SPARES = 8  # that wait at most; each costs some wake-ups a second


class Pollers:
    """Daemon threads that call `poll(within_s)`, which waits that long and deals with what came.

    `poll` returns whether anything did.
    """

    def __init__(self, poll: Callable[[float], bool]) -> None:
        self._poll = poll
        self._lock = threading.Lock()
        self._waiting = self._working = 0  # threads, the watchman while he looks among them
        self._looking = 0
        self._most_lately = self._most_before = 0  # at work at a time; the last two REMEMBER_S
        self._since = time.monotonic()
        self._used = threading.Event()
        self._hurries = self._ending = False

    def start(self) -> None:
        """Begin to poll."""
        with self._lock:
            self._add()
        threading.Thread(target=self._watch, name=THREAD_NAME, daemon=True).start()

    def hurry(self) -> None:
        """Let somebody wait for events at any time from now on, as on a crowded line."""
        with self._lock:
            self._hurries = True
            if self._waiting == self._looking:
                self._call_in_another()

    def end(self) -> None:
        """Let every thread end after what it is at."""
        self._ending = True
        self._used.set()

    def begin_work(self) -> None:
        """Say that the calling thread deals with an event that takes its time; end with `rest`."""
        with self._lock:
            self._waiting -= 1
            self._working += 1
            self._most_lately = max(self._most_lately, self._working)
            if not self._waiting and self._is_crowded():
                self._call_in_another()
        if not self._used.is_set():
            self._used.set()

    def rest(self) -> None:
        """Say that it is done."""
        with self._lock:
            self._waiting += 1
            self._working -= 1

    def _add(self) -> None:
        threading.Thread(target=self._run, name=THREAD_NAME, daemon=True).start()
        self._waiting += 1

    def _call_in_another(self) -> None:
        try:
            self._add()
        except RuntimeError as error:  # the watchman stands in
            log.warning("Frames wait for one another: %s.", error)

    def _run(self) -> None:
        while not self._ending:
            self._deal(WAIT_S)
            with self._lock:
                if self._are_too_many():
                    self._waiting -= 1
                    return

    def _watch(self) -> None:
        while self._used.wait():
            self._used.clear()
            for _ in range(round(WATCH_S / LOOK_EVERY_S)):
                if self._ending:
                    return
                time.sleep(LOOK_EVERY_S)
                self._look()
            if self._working:  # for how long, nobody knows
                self._used.set()

    def _look(self) -> None:
        """Deal with what came while everybody is at work."""
        with self._lock:
            if self._waiting:
                return
            self._waiting += 1
            self._looking = 1
        while self._deal(0.0):
            pass
        with self._lock:
            self._waiting -= 1
            self._looking = 0

    def _deal(self, within_s: float) -> bool:
        try:
            return self._poll(within_s)
        except BaseException:  # without a thread nothing would ever be answered again
            log.exception("An event of gRPC could not be dealt with.")
            return True

    def _is_crowded(self) -> bool:
        return self._hurries or max(self._most_lately, self._most_before) > 1

    def _are_too_many(self) -> bool:
        now = time.monotonic()
        if now - self._since >= REMEMBER_S:
            self._most_before, self._most_lately = self._most_lately, self._working
            self._since = now
        needed = 1 + max(self._most_lately, self._most_before) * self._is_crowded()
        own = self._waiting - self._looking
        return own > SPARES or own + self._working > needed
