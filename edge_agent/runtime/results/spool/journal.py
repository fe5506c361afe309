r"""The journal: what was offered and isn't stored yet, in memory that survives the process.

A write takes microseconds. After `kill -9` the next run reads the journal; after a power cut one in
memory is gone, and with it what was offered since the outbox's last commit.

The file `journal.v1` has one record a line:

    SIZE CHECK JSON "\n"        without the blanks
    0000004b8d23f0a1[17,"01J9ZK3V","result","bolts",1719402334.25,["2024-06-1",…]]

SIZE and CHECK are the number of bytes of the JSON and their CRC-32, each in 8 hexadecimal digits.
The JSON is UTF-8 and has no line break: sequence, id, kind, model, made, facts of a draft; facts is
an object, or for a result the values of `Verdict` in their order. A record of
the sequence alone holds the highest number so far. A line that doesn't match is damaged and
skipped, the others are read. A record has at most RECORD_BYTES, the file LIMIT_BYTES; nothing
beyond is written or read.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import math
import os
import stat
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any, Iterable, Iterator, List, NamedTuple, Optional, Tuple

from pydantic_core import to_json

from edge_agent.config import MIB
from edge_agent.runtime.results.event import EventDraft, Verdict
from edge_agent.runtime.system import private_files

log = logging.getLogger(__name__)

FILE_NAME, NEW_FILE_NAME = "journal.v1", "journal.v1.new"
LIMIT_BYTES = 32 * MIB
RECORD_BYTES = 256 * 1024
HEAD_BYTES = 16
SEQUENCES = 1 << 62  # fewer than SQLite has
NOT_A_RECORD = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError)

Record = Tuple[int, Optional[EventDraft]]


class Journal:
    """Numbered drafts of one outbox. Not thread-safe; only one process may use it."""

    def __init__(self, location: JournalLocation, make: bool = True) -> None:
        """Open the journal at `location`; `make` its folder if missing. Raises OSError."""
        self.location = location
        self.damaged = 0  # lines that `read` left out
        self._folder = private_files.open_subfolder(location.parent, location.name, make)
        try:
            self._file = self._open(FILE_NAME, os.O_CREAT)
        except OSError:
            os.close(self._folder)
            raise
        self._size = os.fstat(self._file).st_size
        self._end_line()
        self._new_file: Optional[int] = None

    def read(self) -> Iterator[Record]:
        """Yield the records of the run before. Raises OSError."""
        with os.fdopen(os.dup(self._file), "rb") as file:
            file.seek(0)
            left = LIMIT_BYTES
            while left > 0 and (line := file.readline(HEAD_BYTES + RECORD_BYTES + 1)):
                left -= len(line)
                try:
                    yield parse(line)
                except NOT_A_RECORD:
                    self.damaged += 1

    def append(self, record: Record) -> None:
        """Add one, whole or not at all.

        Raises OSError when there is no room, ValueError when the record can't be written as JSON.
        """
        line = write(record)
        if self._size + len(line) > LIMIT_BYTES:
            raise _full()
        written = os.write(self._file, line)
        if written < len(line):
            os.ftruncate(self._file, self._size)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._size += written

    def prepare(self, records: Iterable[Record]) -> None:
        """Write `records` into a new file, used from `replace` on. Raises OSError."""
        self._discard_new_file()
        self._new_file = self._open(NEW_FILE_NAME, os.O_CREAT | os.O_EXCL)
        self._fill(self._new_file, records)

    def replace(self, more: Iterable[Record]) -> None:
        """Switch to the prepared file plus `more`; at no moment is less held. Raises OSError."""
        assert self._new_file is not None
        size = self._fill(self._new_file, more)
        os.rename(NEW_FILE_NAME, FILE_NAME, src_dir_fd=self._folder, dst_dir_fd=self._folder)
        old, self._file, self._new_file = self._file, self._new_file, None
        self._size = size
        os.close(old)

    def close(self, remove: bool) -> None:
        """Close; `remove` the file when nothing in it is needed any more."""
        self._discard_new_file()
        if remove:
            with suppress(OSError):
                os.unlink(FILE_NAME, dir_fd=self._folder)
            with suppress(OSError):
                self.location.path.rmdir()
        os.close(self._file)
        os.close(self._folder)

    def _open(self, name: str, flags: int) -> int:
        return private_files.open_file(self._folder, name, flags | os.O_RDWR | os.O_APPEND)

    def _end_line(self) -> None:
        """End a line that a kill cut off, so that the next record begins a new one."""
        if self._size and os.pread(self._file, 1, self._size - 1) != b"\n":
            with suppress(OSError):
                self._size += os.write(self._file, b"\n")

    def _fill(self, file: int, records: Iterable[Record]) -> int:
        """Append `records`; returns the file's size. A file that can't hold all is removed."""
        size = os.fstat(file).st_size
        try:
            with os.fdopen(os.dup(file), "ab") as writer:
                for line in _lines(records):
                    if (size := size + len(line)) > LIMIT_BYTES:
                        raise _full()
                    writer.write(line)
        except OSError:
            self._discard_new_file()  # its memory is needed
            raise
        return size

    def _discard_new_file(self) -> None:
        with suppress(OSError):  # what stays in the way is reported when it is opened
            os.unlink(NEW_FILE_NAME, dir_fd=self._folder)
        if self._new_file is not None:
            os.close(self._new_file)
            self._new_file = None


def write(record: Record) -> bytes:
    """Return a record's line. Raises ValueError when it has too much or what JSON doesn't have."""
    sequence, draft = record
    values = (sequence,) if draft is None else (sequence, *draft)
    content = _json(values)
    if len(content) > RECORD_BYTES:
        raise ValueError(f"the record has {len(content)} bytes; the limit is {RECORD_BYTES}")
    return b"%08x%08x%b\n" % (len(content), zlib.crc32(content), content)


def parse(line: bytes) -> Record:
    """Return a line's record. Raises one of NOT_A_RECORD when it is damaged."""
    content = line[HEAD_BYTES:-1]
    if line[:HEAD_BYTES] != b"%08x%08x" % (len(content), zlib.crc32(content)) or line[-1:] != b"\n":
        raise ValueError("size or checksum differ")
    values = json.loads(content)
    if not isinstance(values, list):
        raise TypeError("it isn't a list")
    sequence, *rest = values
    if not (isinstance(sequence, int) and 0 <= sequence < SEQUENCES):
        raise ValueError("the sequence is out of range")
    return sequence, _draft(*rest) if rest else None


def _json(values: Tuple[object, ...]) -> bytes:
    try:
        return to_json(values)  # a third of json's time
    except ValueError:  # a name may hold half a surrogate pair
        try:
            return json.dumps(values).encode()
        except (TypeError, RecursionError) as error:
            raise ValueError(str(error)) from None


def _draft(id_: str, kind: str, model: str, made: float, facts: object) -> EventDraft:
    for text in (id_, kind, model):
        text.encode()  # what SQLite can't take is none
    if not math.isfinite(made):
        raise ValueError("the time is out of range")
    return EventDraft(id_, kind, model, made, facts if isinstance(facts, dict) else _verdict(facts))


def _verdict(values: Any) -> Verdict:
    facts = Verdict(*values)._asdict()
    for name in ("anomalies", "regions"):
        facts[name] = tuple([tuple(each) for each in facts[name]])
    for name in ("camera_problems", "times_s"):
        facts[name] = tuple(facts[name])
    return Verdict(**facts)


def _lines(records: Iterable[Record]) -> Iterator[bytes]:
    for record in records:
        with suppress(ValueError):  # the outbox logs it when it stores
            yield write(record)


def _full() -> OSError:
    return OSError(errno.EFBIG, f"the journal would have more than {LIMIT_BYTES // MIB} MiB")


# Where a journal is

# It survives the death of a process, not a power cut, wears no disk, and is there for services and
# for root alike (/run is root's, $XDG_RUNTIME_DIR a logged-in user's). Every user may create files
# in it: hence a folder that only the agent's user may open. One made by another user isn't used.
SHARED_MEMORY = Path("/dev/shm")


class JournalLocation(NamedTuple):
    """A folder for one journal and nothing else: `name` in `parent`."""

    parent: Path
    name: str

    @property
    def path(self) -> Path:
        """The whole path."""
        return self.parent / self.name


def journal_locations(folder: Path) -> List[JournalLocation]:
    """Return where the journal of the outbox in `folder` may be, the best first."""
    in_memory = JournalLocation(SHARED_MEMORY, f"edge-agent-journal-{identity(folder)}")
    return [in_memory, JournalLocation(folder, "journal")]


def identity(folder: Path) -> str:
    """Return a name that no other folder has, also if containers use the same path for another."""
    try:
        facts = folder.stat()
        name = f"{facts.st_dev}:{facts.st_ino}"
    except OSError:
        name = str(folder.resolve())
    return hashlib.sha256(name.encode()).hexdigest()[:16]


def remove_pickled(folder: Path) -> None:
    """Remove this user's journal of an earlier version unread: reading it could run code."""
    name = f"edge-agent-results-{identity(folder)}"
    for path in (parent / name for parent in (SHARED_MEMORY, folder)):
        with suppress(OSError):
            facts = os.lstat(path)
            if stat.S_ISREG(facts.st_mode) and facts.st_uid == os.geteuid():
                path.unlink()
                log.warning(
                    "Removed %s (%d bytes), a journal of an earlier version that isn't safe to "
                    "read. Results in it that were not stored are lost.",
                    path, facts.st_size,
                )  # fmt: skip
