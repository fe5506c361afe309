"""What was offered and isn't stored yet, where the death of the process can't reach it.

One file in memory (/dev/shm where there is one): a write takes microseconds, never waits for a
disk and wears none. After `kill -9` the next run reads it; after a power cut it is gone, which
costs what was offered since the outbox's last commit.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Iterable, Iterator, Tuple

from edge_agent.runtime.results.event import Event

SHARED_MEMORY = Path("/dev/shm")


class Journal:
    """Lines of one outbox. Not thread-safe; only one process may use it."""

    def __init__(self, folder: Path) -> None:
        """`folder` is the outbox's own. Raises OSError."""
        name = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]
        there = SHARED_MEMORY if os.access(SHARED_MEMORY, os.W_OK) else folder
        self._path = there / f"edge-agent-results-{name}"
        self._file = self._open()

    def read(self) -> Iterator[Tuple[int, Event]]:
        """Yield the numbered events of the run before; a line that was cut off is left out."""
        with os.fdopen(os.dup(self._file), "rb") as file:
            file.seek(0)
            lines = file.read().split(b"\n")[:-1]
        for line in lines:
            try:
                facts = json.loads(line)
                anomaly = facts.get("is_anomalous", True)
                verdict = "anomaly" if anomaly else "normal"
                event = Event(facts["id"], facts["model"], facts["kind"], verdict, line)
                yield int(facts["sequence"]), event
            except (ValueError, KeyError, TypeError, AttributeError):
                continue

    def append(self, line: bytes) -> None:
        """Add one line. Raises OSError when the memory is full."""
        os.write(self._file, line + b"\n")

    def replace(self, lines: Iterable[bytes]) -> None:
        """Hold exactly `lines` from now on; at no moment less than these. Raises OSError."""
        fresh = self._path.with_name(f"{self._path.name}.new")
        content = b"".join(line + b"\n" for line in lines)
        file = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(file, "wb") as writer:
            writer.write(content)
        fresh.rename(self._path)
        os.close(self._file)
        self._file = self._open()

    def close(self, remove: bool) -> None:
        """Close; `remove` when nothing in it is needed any more."""
        os.close(self._file)
        if remove:
            self._path.unlink()

    def _open(self) -> int:
        file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
        if os.fstat(file).st_uid != os.geteuid():
            os.close(file)
            raise PermissionError(f"{self._path} belongs to another user")
        return file
