"""What was offered and isn't stored yet, where the death of the process can't reach it.

One file in memory (/dev/shm where there is one): a write takes microseconds, never waits for a
disk and wears none. After `kill -9` the next run reads it; after a power cut it is gone, which
costs what was offered since the outbox's last commit. A record is its length (little-endian u32)
and a pickle of plain values; one without a draft tells the highest number that was given.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import struct
from pathlib import Path
from typing import Iterable, Iterator, Optional, Tuple

from edge_agent.runtime.results.event import Draft, Verdict

SHARED_MEMORY = Path("/dev/shm")
LENGTH = struct.Struct("<I")
PROTOCOL = 4  # what CPython 3.8 and newer read and write

Record = Tuple[int, Optional[Draft]]


class Journal:
    """Numbered drafts of one outbox. Not thread-safe; only one process may use it."""

    def __init__(self, folder: Path) -> None:
        """`folder` is the outbox's own; its file tells it from others. Raises OSError."""
        self.path = place(folder)
        self._file = _open(self.path)

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
        """Add one, whole or not at all. Raises OSError when the memory is full."""
        packed = _packed(record)
        written = os.write(self._file, packed)
        if written < len(packed):
            os.ftruncate(self._file, os.fstat(self._file).st_size - written)
            raise OSError(f"{self.path} takes no more")

    def prepare(self, records: Iterable[Record]) -> Path:
        """Write `records` into a file that `replace` puts in place. Raises OSError."""
        fresh = self.path.with_name(f"{self.path.name}.new")
        file = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(file, "wb") as writer:
            writer.writelines(_packed(record) for record in records)
        return fresh

    def replace(self, fresh: Path, more: Iterable[Record]) -> None:
        """Hold what was prepared and `more` from now on; at no moment less. Raises OSError."""
        with fresh.open("ab") as writer:
            writer.writelines(_packed(record) for record in more)
        file = _open(fresh)
        fresh.replace(self.path)
        old, self._file = self._file, file
        os.close(old)

    def close(self, remove: bool) -> None:
        """Close; `remove` when nothing in it is needed any more."""
        os.close(self._file)
        if remove:
            self.path.unlink(missing_ok=True)


def place(folder: Path) -> Path:
    """Return where the journal of the outbox in `folder` lies when there is one."""
    there = SHARED_MEMORY if os.access(SHARED_MEMORY, os.W_OK) else folder
    return there / f"edge-agent-results-{identity(folder)}"


def identity(folder: Path) -> str:
    """Tell folders apart, also those that containers see under the same path."""
    try:
        facts = folder.stat()
        name = f"{facts.st_dev}:{facts.st_ino}"
    except OSError:
        name = str(folder.resolve())
    return hashlib.sha256(name.encode()).hexdigest()[:16]


def _open(path: Path) -> int:
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
    if os.fstat(file).st_uid != os.geteuid():
        os.close(file)
        raise PermissionError(f"{path} belongs to another user")
    return file


def _packed(record: Record) -> bytes:
    sequence, draft = record
    if draft is None:
        content = pickle.dumps((sequence, None, None), PROTOCOL)
    else:
        facts = draft.facts  # classes would cost time, and they change
        plain = tuple(facts) if isinstance(facts, Verdict) else facts
        content = pickle.dumps((sequence, tuple(draft)[:-1], plain), PROTOCOL)
    return LENGTH.pack(len(content)) + content


def _unpacked(content: bytes) -> Record:
    # Written by this user, see `_open`.
    sequence, common, plain = pickle.loads(content)
    if common is None:
        return sequence, None
    id_, kind, model, made = common
    facts = plain if isinstance(plain, dict) else Verdict(*plain)
    return sequence, Draft(id_, kind, model, made, facts)
