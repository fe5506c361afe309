"""One thread that runs tasks at their time."""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
from typing import Callable, List, Optional, Tuple

log = logging.getLogger(__name__)

Task = Callable[[], object]


class Scheduler:
    """Owns the thread, from the first task to `close`; a task that raises is logged.

    `schedule` never waits and may be called on any thread. A task should not wait either: it would
    delay the next one.
    """

    def __init__(self, name: str) -> None:
        self._tasks: List[Tuple[float, int, Task]] = []  # a heap: when, order, task
        self._order = itertools.count()
        self._changed = threading.Condition()  # guards all
        self._closed = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def schedule(self, task: Task, after_s: float = 0.0) -> None:
        """Run `task` after `after_s` seconds, unless closed before."""
        with self._changed:
            if self._closed:
                return
            heapq.heappush(self._tasks, (time.monotonic() + after_s, next(self._order), task))
            if not self._thread.ident:
                self._thread.start()
            self._changed.notify()

    def close(self, within_s: float) -> None:
        """Drop the scheduled tasks, and wait for the one that runs."""
        with self._changed:
            self._closed = True
            self._tasks.clear()
            self._changed.notify()
        if self._thread.ident:
            self._thread.join(within_s)

    def _run(self) -> None:
        while (task := self._next()) is not None:
            try:
                task()
            except Exception:
                log.exception("A task of the component failed.")

    def _next(self) -> Optional[Task]:
        with self._changed:
            while not self._closed:
                wait_s = self._tasks[0][0] - time.monotonic() if self._tasks else None
                if wait_s is not None and wait_s <= 0.0:
                    return heapq.heappop(self._tasks)[2]
                self._changed.wait(wait_s)
        return None
