"""Keeps calls and forks apart: a fork waits for calls of other threads, and they for the fork.

gRPC works in a forked child only if nothing was open when the process was forked. A stream is open
for long, and a call may hang: then the process is forked all the same, and its child knows.
"""

from __future__ import annotations

import contextlib
import os
import threading
from typing import Dict, Iterator, Set

WAIT_S = 1.0  # for a call; then the process is forked all the same
ENDS_ELSEWHERE = 0  # in place of a thread: gRPC's own ends the call


class ForkGate:
    """Knows the calls and streams that are open in this process."""

    def __init__(self) -> None:
        self.cut_off = False  # this process was forked while its parent had something open
        self._begin()

    def _begin(self) -> None:
        self._changed = threading.Condition()
        self._calls: Dict[object, int] = {}  # with the thread of each
        self._streams: Set[object] = set()
        self._forks = 0

    @contextlib.contextmanager
    def call(self) -> Iterator[None]:
        """Wait while another thread forks, and hold back forks as long as the context lasts."""
        this = object()
        with self._changed:
            self._changed.wait_for(lambda: not self._forks)
            self._calls[this] = threading.get_ident()
        try:
            yield
        finally:
            self.ended(this)

    def opened(self) -> object:
        """Return a stream that counts as open until it `ended`."""
        this = object()
        self._streams.add(this)
        return this

    def ends(self, this: object) -> None:
        """Let forks wait for the stream, which is about to end."""
        with self._changed:
            if this in self._streams:
                self._streams.discard(this)
                self._calls[this] = ENDS_ELSEWHERE

    def ended(self, this: object) -> None:
        """Forget a call or a stream that isn't open any more."""
        with self._changed:
            self._calls.pop(this, None)
            self._streams.discard(this)
            self._changed.notify_all()

    def before_fork(self) -> None:
        """Hold back new calls, and wait for those of other threads, but not for streams."""
        with self._changed:
            self._forks += 1
            own = threading.get_ident()  # a signal's handler may fork within a call of its thread
            self._changed.wait_for(lambda: all(of == own for of in self._calls.values()), WAIT_S)

    def after_in_parent(self) -> None:
        """Let calls go on."""
        with self._changed:
            self._forks -= 1
            self._changed.notify_all()

    def after_in_child(self) -> None:
        """Begin again: the threads of the parent aren't here."""
        self.cut_off = self.cut_off or bool(self._calls or self._streams)
        self._begin()


GATE = ForkGate()
os.register_at_fork(
    before=GATE.before_fork,
    after_in_parent=GATE.after_in_parent,
    after_in_child=GATE.after_in_child,
)
