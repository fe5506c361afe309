"""What was offered and isn't stored yet, where the death of the process can't reach it.

One file in memory (/dev/shm where there is one): a write takes microseconds, never waits for a
disk and wears none. After `kill -9` the next run reads it; after a power cut it is gone, which
costs what was offered since the outbox's last commit. A record is its length (little-endian u32)
and a pickle of plain values.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import struct
from pathlib import Path
from typing import Iterable, Iterator, Tuple

from edge_agent.runtime.results.event import Draft, Verdict

SHARED_MEMORY = Path("/dev/shm")
LENGTH = struct.Struct("<I")
PROTOCOL = 4  # what CPython 3.8 and newer read and write

Record = Tuple[int, Draft]


class Journal:
    """Numbered drafts of one outbox. Not thread-safe; only one process may use it."""

    def __init__(self, folder: Path) -> None:
        """`folder` is the outbox's own. Raises OSError."""
        name = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]
        there = SHARED_MEMORY if os.access(SHARED_MEMORY, os.W_OK) else folder
        self.path = there / f"edge-agent-results-{name}"
        self._file = self._open()

    def read(self) -> Iterator[Record]:
        """Yield the records of the run before, up to one that was cut off."""
        with os.fdopen(os.dup(self._file), "rb") as file:
            file.seek(0)
            while len(length := file.read(LENGTH.size)) == LENGTH.size:
                (size,) = LENGTH.unpack(length)
                content = file.read(size)
                if len(content) < size:
                    return
                yield _unpacked(content)

    def append(self, record: Record) -> None:
        """Add one. Raises OSError when the memory is full."""
        os.write(self._file, _packed(record))

    def replace(self, records: Iterable[Record]) -> None:
        """Hold exactly `records` from now on; at no moment less than these. Raises OSError."""
        fresh = self.path.with_name(f"{self.path.name}.new")
        content = b"".join(_packed(record) for record in records)
        file = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(file, "wb") as writer:
            writer.write(content)
        fresh.rename(self.path)
        os.close(self._file)
        self._file = self._open()

    def close(self, remove: bool) -> None:
        """Close; `remove` when nothing in it is needed any more."""
        os.close(self._file)
        if remove:
            self.path.unlink()

    def _open(self) -> int:
        file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
        if os.fstat(file).st_uid != os.geteuid():
            os.close(file)
            raise PermissionError(f"{self.path} belongs to another user")
        return file


def _packed(record: Record) -> bytes:
    sequence, draft = record
    facts = draft.facts
    plain = tuple(facts) if isinstance(facts, Verdict) else facts  # classes cost time, and change
    content = pickle.dumps((sequence, tuple(draft)[:-1], plain), PROTOCOL)
    return LENGTH.pack(len(content)) + content


def _unpacked(content: bytes) -> Record:
    # Written by this user, see `_open`.
    sequence, (id_, kind, model, made), plain = pickle.loads(content)
    facts = plain if isinstance(plain, dict) else Verdict(*plain)
    return sequence, Draft(id_, kind, model, made, facts)
