"""Keeps calls and forks apart: a fork waits for calls of other threads, and they for the fork.

gRPC's own handlers give a forked child a gRPC that works, but only if no thread is in a call when
the process is forked; else child or parent may hang.
"""

from __future__ import annotations

import os
import threading

WAIT_S = 10.0  # for a call; then the process is forked all the same


class ForkGate:
    """A context for each call. Its other methods are for `os.register_at_fork`."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._calls = 0
        self._forking = False

    def __enter__(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: not self._forking)
            self._calls += 1

    def __exit__(self, *_error: object) -> None:
        with self._changed:
            self._calls -= 1
            self._changed.notify_all()

    def before_fork(self) -> None:
        """Wait for calls, and hold back new ones."""
        self._changed.acquire()
        self._forking = True
        self._changed.wait_for(lambda: not self._calls, WAIT_S)

    def after_in_parent(self) -> None:
        """Let calls go on."""
        self._forking = False
        self._changed.notify_all()
        self._changed.release()

    def after_in_child(self) -> None:
        """Begin anew: the threads of the parent aren't here."""
        self._changed, self._calls, self._forking = threading.Condition(), 0, False


GATE = ForkGate()
os.register_at_fork(
    before=GATE.before_fork,
    after_in_parent=GATE.after_in_parent,
    after_in_child=GATE.after_in_child,
)
