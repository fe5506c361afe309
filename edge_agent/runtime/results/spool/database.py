"""What waits on disk: a SQLite database in WAL mode, one row an event.

A commit is on the disk when it returns (synchronous=FULL), so nothing that was committed is lost to
a power cut. A row's `sinks` has a bit for every sink that still has to deliver it; without bits it
is deleted. Normal results have a table of their own: dropping the oldest of them frees whole pages.
A damaged file is moved aside; what can be read of it is copied into a new one. `age` says what the
seconds in `made` are.
"""

from __future__ import annotations

import json
import logging
import math
import os
import sqlite3
from collections import Counter
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from itertools import takewhile
from pathlib import Path
from typing import Counter as CounterType
from typing import Dict, Iterable, Iterator, List, Mapping, NamedTuple, Sequence, Tuple

from edge_agent.runtime.results.spool import age
from edge_agent.runtime.system.machine_clock import THIS_MACHINE, MachineClock

log = logging.getLogger(__name__)

DiskError = sqlite3.Error
TRIM_SHARE = 0.02  # dropped in one step when full, not event by event
TRIM_LEAST = 50
SLACK = 1.1  # of the limit: below that, normal results stored just now aren't dropped


class StoredEvent(NamedTuple):
    """A numbered event; `made`: the machine's uptime in s, below 0 before this boot."""

    sequence: int
    id: str
    model: str
    kind: str
    verdict: str
    made: float
    body: bytes

    @property
    def table(self) -> str:
        """The table it is stored in."""
        return NORMAL if self.kind == "result" and self.verdict == "normal" else OTHER


@dataclass(frozen=True)
class Dropped:
    """How many events were dropped; `missed`: by sink that hadn't delivered them."""

    normal: int = 0
    others: int = 0
    missed: CounterType[str] = field(default_factory=Counter, compare=False)

    def __bool__(self) -> bool:
        return bool(self.normal or self.others)

    def missed_by(self, sinks: Iterable[str]) -> Dropped:
        """Return the same, missed by all of `sinks`."""
        return replace(self, missed=Counter(dict.fromkeys(sinks, self.normal + self.others)))

    def __add__(self, more: Dropped) -> Dropped:
        missed = self.missed + more.missed
        return Dropped(self.normal + more.normal, self.others + more.others, missed)


class Spool:
    """The rows of one outbox. Used by one thread at a time; any call may raise DiskError.

    The constructor also raises OSError. `salvaged`: what was done about a damaged file, a sentence.
    """

    def __init__(
        self, folder: Path, sinks: Sequence[str], clock: MachineClock = THIS_MACHINE
    ) -> None:
        self._path, self._clock = folder / FILE_NAME, clock
        self.salvaged = ""
        try:
            self._db = open_database(self._path)
        except DiskError as error:
            if not is_damage(error):
                raise
            self.salvaged = replace_damaged(self._path, error)
            log.error("%s", self.salvaged)  # noqa: TRY400 - it is repaired
            self._db = open_database(self._path)
        self._bits = self._assign_bits(sinks)
        self._everyone = sum(self._bits[name] for name in sinks)
        self._offset_s = self._resume_ages()

    def append(
        self,
        entries: Sequence[StoredEvent],
        delivered: Mapping[str, Iterable[int]],
        notes: Mapping[str, str],
    ) -> None:
        """Store new events, delete delivered ones, store notes: all in one commit."""
        rows = [entry._replace(made=entry.made + self._offset_s) for entry in entries]
        with self._db as db:
            for table in TABLES:
                db.executemany(
                    f"INSERT OR IGNORE INTO {table} VALUES (?,?,?,?,?,?,?,?)",
                    ((*row, self._everyone) for row in rows if row.table == table),
                )
                for sink, sequences in delivered.items():
                    done = [(sequence,) for sequence in sequences]
                    rest = ~self._bits[sink]
                    db.executemany(
                        f"UPDATE {table} SET sinks = sinks & {rest} "
                        f"WHERE sequence = ? AND sinks & {rest}",
                        done,
                    )
                    db.executemany(
                        f"DELETE FROM {table} WHERE sequence = ? AND NOT sinks & {rest}", done
                    )
            ages = age.notes(self._offset_s, self._clock)
            db.executemany("INSERT OR REPLACE INTO notes VALUES (?, ?)", {**notes, **ages}.items())

    def read(self, sink: str, model: str, after: int, limit: int) -> List[StoredEvent]:
        """Return events of `model` that `sink` has to deliver, in order."""
        bit = self._bits[sink]
        parts = " UNION ALL ".join(
            f"SELECT * FROM (SELECT {COLUMNS} FROM {table} INDEXED BY {table}_by_model "
            f"WHERE model = ?1 AND sequence > ?2 AND sinks & {bit} ORDER BY sequence LIMIT ?3)"
            for table in TABLES
        )
        rows = self._db.execute(f"{parts} ORDER BY sequence LIMIT ?3", (model, after, limit))
        events = (StoredEvent(*row) for row in rows)
        return [each._replace(made=each.made - self._offset_s) for each in events]

    def waiting(self, sink: str) -> Dict[str, Tuple[int, int]]:
        """Return by model the count of events `sink` has to deliver, and the last's sequence."""
        found: Dict[str, Tuple[int, int]] = {}
        for table in TABLES:
            for model, count, last in self._db.execute(
                f"SELECT model, COUNT(*), MAX(sequence) FROM {table} WHERE sinks & ? GROUP BY 1",
                (self._bits[sink],),
            ):
                known, end = found.get(model, (0, 0))
                found[model] = known + count, max(end, last)
        return found

    def count(self, sink: str, model: str, after: int) -> int:
        """Return how many events of `model` after `after` the sink has to deliver."""
        return sum(
            self._db.execute(
                f"SELECT COUNT(*) FROM {table} WHERE model = ? AND sequence > ? AND sinks & ?",
                (model, after, self._bits[sink]),
            ).fetchone()[0]
            for table in TABLES
        )

    def trim(
        self, limit_bytes: int, made_after: float, fresh_after: float
    ) -> Iterator[Tuple[Dropped, str]]:
        """Drop events made before `made_after`, then what doesn't fit: yields how many, and why.

        Both moments are uptimes.

        The oldest normal results go first, then the oldest of the others, until the pages in use
        fit into `limit_bytes`. Normal results made since `fresh_after` may be in flight and stay
        while the limit is exceeded by little.
        """
        made_after, fresh_after = made_after + self._offset_s, fresh_after + self._offset_s
        for table in TABLES:
            old = self._oldest(table, 1000, made_after)
            if old:
                yield self._drop(table, old), "too old"
        while self._used_bytes() > limit_bytes:
            fits = self._used_bytes() <= SLACK * limit_bytes
            batch = max(TRIM_LEAST, int(self._count() * TRIM_SHARE))
            normal = self._oldest(NORMAL, batch, fresh_after if fits else math.inf)
            if not normal and fits and self._oldest(NORMAL, 1):
                break  # only fresh ones are left, and SLACK allows these
            others = [] if normal else self._oldest(OTHER, batch)
            if not (normal or others):
                break
            yield self._drop(NORMAL if normal else OTHER, normal or others), "outbox full"

    def notes(self) -> Dict[str, str]:
        """Return the notes by name."""
        return dict(self._db.execute("SELECT name, text FROM notes"))

    def close(self) -> None:
        """Close; the log is merged into the database file."""
        self._db.close()

    def _resume_ages(self) -> float:
        """Return what is added to an uptime in `made`. The age of rows without it begins now."""
        offset = age.offset_s(self.notes().get(age.NOTE, ""), self._clock)
        if offset is not None:
            return offset
        now = self._clock.wall()
        with self._db as db:
            for table in TABLES:
                db.execute(f"UPDATE {table} SET made = ?", (now,))
        return now - self._clock.uptime_s()

    def _assign_bits(self, sinks: Sequence[str]) -> Dict[str, int]:
        """Assign each sink its bit. Rows of a sink that isn't configured now stay until too old.

        If the bits were lost with a damaged file, every sink delivers every row: rather twice.
        """
        known: Dict[str, int] = {}
        with suppress(LookupError, ValueError, TypeError, AttributeError):
            known = {str(name): int(bit) for name, bit in json.loads(self.notes()["sinks"]).items()}
        bits = dict(known)
        free = [1 << index for index in range(62) if 1 << index not in bits.values()]
        for name in sinks:
            if name not in bits:
                bits[name] = free.pop(0)
        with self._db as db:
            if not known:
                for table in TABLES:
                    db.execute(f"UPDATE {table} SET sinks = ?", (sum(bits.values()),))
            db.execute("INSERT OR REPLACE INTO notes VALUES ('sinks', ?)", (json.dumps(bits),))
        return bits

    def _oldest(self, table: str, limit: int, made_before: float = math.inf) -> List[int]:
        """Return the first sequences, as far as they are old enough."""
        rows = self._db.execute(
            f"SELECT sequence, made FROM {table} ORDER BY sequence LIMIT ?", (limit,)
        ).fetchall()
        return [sequence for sequence, _ in takewhile(lambda row: row[1] < made_before, rows)]

    def _drop(self, table: str, sequences: List[int]) -> Dropped:
        """Delete the rows from the first of `sequences` to the last."""
        span = (sequences[0], sequences[-1])
        where = f"FROM {table} WHERE sequence BETWEEN ? AND ?"
        missed: CounterType[str] = Counter()
        with self._db as db:
            for bits, count in db.execute(f"SELECT sinks, COUNT(*) {where} GROUP BY 1", span):
                missed.update({name: count for name, bit in self._bits.items() if bits & bit})
            gone = db.execute(f"DELETE {where}", span).rowcount
        return Dropped(gone, 0, missed) if table == NORMAL else Dropped(0, gone, missed)

    def _count(self) -> int:
        return sum(
            self._db.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0] for table in TABLES
        )

    def _used_bytes(self) -> int:
        pages, free, size = (
            int(self._db.execute(f"PRAGMA {name}").fetchone()[0])
            for name in ("page_count", "freelist_count", "page_size")
        )
        return (pages - free) * size


def is_damage(error: sqlite3.Error) -> bool:
    """Whether the file itself is damaged; other errors may pass."""
    if isinstance(error, sqlite3.OperationalError):
        return "malformed" in str(error)
    return type(error) is sqlite3.DatabaseError


def parse_int(text: str) -> int:
    """Return the number in a note, 0 for what isn't one."""
    try:
        return int(text)
    except ValueError:
        return 0


FILE_NAME = "outbox.db"
TABLES = NORMAL, OTHER = ("normal", "other")
COLUMNS = "sequence, id, model, kind, verdict, made, body"

TABLE = """
CREATE TABLE IF NOT EXISTS {name} (
    sequence INTEGER PRIMARY KEY, id TEXT NOT NULL, model TEXT NOT NULL, kind TEXT NOT NULL,
    verdict TEXT NOT NULL, made REAL NOT NULL, body BLOB NOT NULL, sinks INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS {name}_by_model ON {name} (model, sequence);
"""
NOTES = (
    "CREATE TABLE IF NOT EXISTS notes (name TEXT PRIMARY KEY, text TEXT NOT NULL) WITHOUT ROWID;"
)


def open_database(path: Path) -> sqlite3.Connection:
    """Open or make the database. Raises sqlite3.DatabaseError when it is damaged, OSError."""
    if path.exists():
        if not path.stat().st_size:
            raise sqlite3.DatabaseError("the file is empty")
    else:  # SQLite gives the files beside it the same mode
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    # Python's default isolation opens a transaction before the first change only.
    db = sqlite3.connect(path, check_same_thread=False, timeout=5.0)
    try:
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=FULL")
        db.execute("PRAGMA journal_size_limit=4194304")
        db.executescript(NOTES + "".join(TABLE.format(name=name) for name in TABLES))
        for (verdict,) in db.execute("PRAGMA quick_check(1)"):
            if verdict != "ok":
                raise sqlite3.DatabaseError(verdict)  # noqa: TRY301
    except BaseException:
        db.close()
        raise
    return db


def replace_damaged(path: Path, error: sqlite3.Error) -> str:
    """Replace a damaged database by a new one with what can be read of it; return a sentence.

    Nothing is moved before the new one is complete: after a full disk it is tried again.
    """
    fresh = path.with_name(f"{FILE_NAME}.new")
    _remove(fresh)
    saved = 0
    with closing(open_database(fresh)) as db, db:
        for table in TABLES:
            for row in _salvage(path, f"SELECT {COLUMNS}, sinks FROM {table} ORDER BY sequence"):
                if isinstance(row[6], bytes) and isinstance(row[7], int):
                    insert = f"INSERT OR IGNORE INTO {table} VALUES (?,?,?,?,?,?,?,?)"
                    saved += db.execute(insert, row).rowcount
        for row in _salvage(path, "SELECT name, text FROM notes ORDER BY name"):
            db.execute("INSERT OR REPLACE INTO notes VALUES (?, ?)", row)
    number = 1
    while (aside := path.with_name(f"{FILE_NAME}.damaged-{number}")).exists():
        number += 1
    for suffix in ("-wal", "-shm", ""):
        part = path.with_name(f"{FILE_NAME}{suffix}")
        if part.exists():
            part.rename(f"{aside}{suffix}")
    fresh.rename(path)
    return (
        f"The outbox {path} was damaged ({error}). It was moved to {aside} and replaced by a new "
        f"one. {saved} waiting events could be read and were copied."
    )


def _remove(path: Path) -> None:
    for suffix in ("-wal", "-shm", ""):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def _salvage(path: Path, query: str) -> Iterator[Tuple[object, ...]]:
    """Yield what can be read, row by row, from both ends up to where it breaks."""
    for order in ("ASC", "DESC"):
        db = sqlite3.connect(path)
        try:
            yield from db.execute(f"{query} {order}")
        except sqlite3.Error:
            continue
        else:
            return
        finally:
            db.close()
