"""The outbox's database file: opened and checked, or replaced by what can be read of it."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Iterator, Tuple

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
    """Put a new database with what can be read of the damaged one in its place; tell of it.

    Nothing is moved before the new one is whole: on a full disk it is tried again.
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
        f"The outbox {path} was damaged ({error}); it was moved to {aside} and a new one begun. "
        f"{saved} waiting events could be read and were taken over."
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
