"""How many files and connections the process may have open, and a reserve of them for frames.

Every connection takes a descriptor (getrlimit(2), RLIMIT_NOFILE), and gRPC accepts as long as there
are any. A few are kept back, so that idle connections never stop a camera's new segment or the look
at the models' folder.
"""

from __future__ import annotations

import os
import resource
import threading
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Iterator, List

RESERVED = 16
ENOUGH = 65536  # more than any number of cameras; a table of a million costs memory


def raise_limit() -> int:
    """Raise the soft limit as far as the hard one allows; return it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = ENOUGH if hard == resource.RLIM_INFINITY else min(hard, ENOUGH)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def in_use() -> int:
    """Return how many descriptors the process has."""
    return len(list(Path("/proc/self/fd").iterdir()))


class Reserve:
    """Descriptors that are held to be lent. Its methods may be called on any thread."""

    def __init__(self, size: int = RESERVED) -> None:
        self._size = size
        self._held: List[int] = []
        self._lock = threading.Lock()
        self._borrowers = 0

    def fill(self) -> None:
        """Hold as many as are free, up to the size."""
        with self._lock, suppress(OSError):
            while not self._borrowers and len(self._held) < self._size:
                self._held.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))

    def release(self) -> None:
        """Hold none."""
        with self._lock:
            while self._held:
                os.close(self._held.pop())

    @contextmanager
    def lent(self) -> Iterator[None]:
        """Let the block open files even when all descriptors are in use.

        They are held again at once, before many connections that wait can take them.
        """
        if not _is_short():
            yield
            return
        with self._lock:
            self._borrowers += 1
        try:
            self.release()
            yield
        finally:
            with self._lock:
                self._borrowers -= 1
            self.fill()


def _is_short() -> bool:
    try:
        os.close(os.dup(0))
    except OSError:
        return True
    return False


RESERVE = Reserve()  # the process's own; empty until `fill`
