"""What waits on disk: a SQLite database in WAL mode, one row an event.

A commit is on the disk when it returns (synchronous=FULL), so nothing that was committed is lost to
a power cut. A row's `sinks` has a bit for every sink that still has to deliver it; without bits it
is deleted. A damaged file is moved aside, what can be read of it is taken over.
"""

from __future__ import annotations

import json
import logging
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, Iterable, Iterator, List, Mapping, NamedTuple, Sequence, Tuple

log = logging.getLogger(__name__)

FILE_NAME = "outbox.db"
DiskError = sqlite3.Error
TRIM_SHARE = 0.02  # dropped at once when full, so that it isn't done event by event

SCHEMA = """
CREATE TABLE IF NOT EXISTS events (
    sequence INTEGER PRIMARY KEY, id TEXT NOT NULL, model TEXT NOT NULL, kind TEXT NOT NULL,
    verdict TEXT NOT NULL, made REAL NOT NULL, sinks INTEGER NOT NULL, body BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS by_model ON events (model, sequence);
CREATE INDEX IF NOT EXISTS normal ON events (sequence) WHERE kind = 'result' AND verdict = 'normal';
CREATE TABLE IF NOT EXISTS notes (name TEXT PRIMARY KEY, text TEXT NOT NULL) WITHOUT ROWID;
"""
COLUMNS = "sequence, id, model, kind, verdict, made, body"
INSERT = f"INSERT OR IGNORE INTO events ({COLUMNS}, sinks) VALUES (?,?,?,?,?,?,?,?)"
IS_NORMAL = "kind = 'result' AND verdict = 'normal'"


class Entry(NamedTuple):
    """A numbered event; `made` in Unix seconds."""

    sequence: int
    id: str
    model: str
    kind: str
    verdict: str
    made: float
    body: bytes

    @property
    def normal(self) -> bool:
        """Whether it may be dropped before others."""
        return self.kind == "result" and self.verdict == "normal"


@dataclass(frozen=True)
class Dropped:
    """How many events were given up undelivered."""

    normal: int = 0
    others: int = 0

    def __bool__(self) -> bool:
        return bool(self.normal or self.others)

    def __add__(self, more: Dropped) -> Dropped:
        return Dropped(self.normal + more.normal, self.others + more.others)


class Spool:
    """The rows of one outbox. Used by one thread at a time; any call may raise DiskError.

    Making one raises OSError as well, when the folder can't be made.
    """

    def __init__(self, folder: Path, sinks: Sequence[str]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / FILE_NAME
        self.salvaged = ""  # what became of a damaged file, for people
        try:
            self._db = self._open()
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError) and not _damaged(error):
                raise
            self._db = self._start_anew(error)
        self._bits = self._name_bits(sinks)

    def append(
        self,
        entries: Sequence[Entry],
        delivered: Mapping[str, Iterable[int]],
        notes: Mapping[str, str],
    ) -> None:
        """Store new events, clear those a sink has delivered, keep notes: all in one commit.

        When the file turns out to be damaged, they go into a new one.
        """
        try:
            self._append(entries, delivered, notes)
        except sqlite3.OperationalError as error:
            if not _damaged(error):
                raise
            self._replace(error)
            self._append(entries, delivered, notes)
        except sqlite3.DatabaseError as error:
            self._replace(error)
            self._append(entries, delivered, notes)

    def read(self, sink: str, model: str, after: int, limit: int) -> List[Entry]:
        """Return events of `model` that `sink` has to deliver, in order."""
        rows = self._db.execute(
            f"SELECT {COLUMNS} FROM events INDEXED BY by_model "
            "WHERE model = ? AND sequence > ? AND sinks & ? ORDER BY sequence LIMIT ?",
            (model, after, self._bits[sink], limit),
        )
        return [Entry(*row) for row in rows]

    def waiting(self, sink: str) -> Dict[str, Tuple[int, int]]:
        """Return by model the count of events `sink` has to deliver, and the last's sequence."""
        rows = self._db.execute(
            "SELECT model, COUNT(*), MAX(sequence) FROM events WHERE sinks & ? GROUP BY model",
            (self._bits[sink],),
        )
        return {model: (count, last) for model, count, last in rows}

    def count(self, sink: str, model: str, after: int) -> int:
        """Return how many events of `model` after `after` the sink has to deliver."""
        row = self._db.execute(
            "SELECT COUNT(*) FROM events WHERE model = ? AND sequence > ? AND sinks & ?",
            (model, after, self._bits[sink]),
        )
        return int(row.fetchone()[0])

    def trim(self, limit_bytes: int, made_after: float) -> Iterator[Tuple[Dropped, str]]:
        """Drop events that are older, then what doesn't fit: yields how many, and why.

        The oldest normal results go first, the oldest of the others when none is left, until the
        pages in use fit into `limit_bytes`.
        """
        oldest = self._db.execute("SELECT made FROM events ORDER BY sequence LIMIT 1").fetchone()
        if oldest and oldest[0] < made_after:
            yield self._drop(f"made < {made_after!r}", -1), "too old"
        while self._used_bytes() > limit_bytes:
            rows = self._db.execute("SELECT COUNT(*) FROM events").fetchone()[0]
            batch = max(1, int(rows * TRIM_SHARE))
            dropped = self._drop(IS_NORMAL, batch) or self._drop("1", batch)
            if not dropped:
                break
            yield dropped, "outbox full"

    def shift(self, seconds: float) -> None:
        """Correct the times of all events: the clock was set."""
        with self._db as db:
            db.execute("UPDATE events SET made = made + ?", (seconds,))

    def notes(self) -> Dict[str, str]:
        """Return what was noted."""
        return dict(self._db.execute("SELECT name, text FROM notes"))

    def close(self) -> None:
        """Close; the log is merged into the database file."""
        self._db.close()

    def _append(
        self,
        entries: Sequence[Entry],
        delivered: Mapping[str, Iterable[int]],
        notes: Mapping[str, str],
    ) -> None:
        everyone = sum(self._bits.values())
        with self._db as db:
            db.executemany(INSERT, ((*entry, everyone) for entry in entries))
            for sink, sequences in delivered.items():
                self._clear(self._bits[sink], sequences)
            db.executemany("INSERT OR REPLACE INTO notes VALUES (?, ?)", notes.items())

    def _open(self) -> sqlite3.Connection:
        # Python's default isolation opens a transaction before the first change only.
        db = sqlite3.connect(self._path, check_same_thread=False, timeout=5.0)
        try:
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("PRAGMA synchronous=FULL")
            db.execute("PRAGMA journal_size_limit=4194304")
            db.executescript(SCHEMA)
            _check(db)
        except BaseException:
            db.close()
            raise
        return db

    def _replace(self, error: sqlite3.Error) -> None:
        self._db.close()
        self._db = self._start_anew(error)
        self._bits = self._name_bits(sorted(self._bits, key=lambda name: self._bits[name]))

    def _start_anew(self, error: sqlite3.Error) -> sqlite3.Connection:
        number = 1
        while (aside := self._path.with_name(f"{FILE_NAME}.damaged-{number}")).exists():
            number += 1
        for suffix in ("-wal", "-shm", ""):
            part = self._path.with_name(f"{FILE_NAME}{suffix}")
            if part.exists():
                part.rename(f"{aside}{suffix}")
        db = self._open()
        saved = 0
        with db:
            for entry, sinks in _salvage(aside):
                saved += db.execute(INSERT, (*entry, sinks)).rowcount
            for name, text in _salvage_notes(aside):
                db.execute("INSERT OR REPLACE INTO notes VALUES (?, ?)", (name, text))
        self.salvaged = (
            f"The outbox {self._path} was damaged ({error}); it was moved to {aside} and a new one "
            f"begun. {saved} waiting events could be read and were taken over."
        )
        log.error("%s", self.salvaged)
        return db

    def _name_bits(self, sinks: Sequence[str]) -> Dict[str, int]:
        """Give every sink its bit; one that is no longer configured has nothing to deliver."""
        known: Dict[str, int] = json.loads(self.notes().get("sinks", "{}"))
        bits = {name: bit for name, bit in known.items() if name in sinks}
        staying = sum(bits.values())
        free = [1 << index for index in range(62) if 1 << index not in bits.values()]
        for name in sinks:
            if name not in bits:
                bits[name] = free.pop(0)
        with self._db as db:
            if bits != known:
                db.execute("UPDATE events SET sinks = sinks & ?", (staying,))
                db.execute("DELETE FROM events WHERE sinks = 0")
            db.execute("INSERT OR REPLACE INTO notes VALUES ('sinks', ?)", (json.dumps(bits),))
        return bits

    def _clear(self, bit: int, sequences: Iterable[int]) -> None:
        rows = [(sequence,) for sequence in sequences]
        if sum(self._bits.values()) != bit:  # others may still have to deliver it
            self._db.executemany(
                f"UPDATE events SET sinks = sinks & {~bit} WHERE sequence = ?", rows
            )
            self._db.executemany("DELETE FROM events WHERE sequence = ? AND sinks = 0", rows)
        else:
            self._db.executemany("DELETE FROM events WHERE sequence = ?", rows)

    def _drop(self, which: str, limit: int) -> Dropped:
        chosen = f"SELECT sequence FROM events WHERE {which} ORDER BY sequence LIMIT {limit}"
        with self._db as db:
            rows = db.execute(
                f"SELECT {IS_NORMAL}, COUNT(*) FROM events WHERE sequence IN ({chosen}) GROUP BY 1"
            )
            counts = dict(rows.fetchall())
            if counts:
                db.execute(f"DELETE FROM events WHERE sequence IN ({chosen})")
        return Dropped(counts.get(1, 0), counts.get(0, 0))

    def _used_bytes(self) -> int:
        pages, free, size = (
            int(self._db.execute(f"PRAGMA {name}").fetchone()[0])
            for name in ("page_count", "freelist_count", "page_size")
        )
        return (pages - free) * size


def _check(db: sqlite3.Connection) -> None:
    for (verdict,) in db.execute("PRAGMA quick_check(1)"):
        if verdict != "ok":
            raise sqlite3.DatabaseError(verdict)


def _damaged(error: sqlite3.OperationalError) -> bool:
    return "malformed" in str(error) or "not a database" in str(error)


def _salvage(path: Path) -> Iterator[Tuple[Entry, int]]:
    """Yield what can be read of a damaged database, row by row, up to where it breaks."""
    for order in ("", "DESC"):  # from both ends, around a damaged page between them
        db = sqlite3.connect(path)
        try:
            for row in db.execute(f"SELECT {COLUMNS}, sinks FROM events ORDER BY sequence {order}"):
                if isinstance(row[6], bytes) and isinstance(row[7], int):
                    yield Entry(*row[:7]), row[7]
        except sqlite3.Error:
            continue
        else:
            return
        finally:
            db.close()


def _salvage_notes(path: Path) -> List[Tuple[str, str]]:
    db = sqlite3.connect(path)
    try:
        return db.execute("SELECT name, text FROM notes").fetchall()
    except sqlite3.Error:
        return []
    finally:
        db.close()
