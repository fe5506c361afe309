"""The database file: transactions, and what happens after they are committed.

SQLite in WAL mode. A commit is on the disk when it returns (synchronous=FULL): nothing that was
answered is lost to a killed process or a power cut. Copy the file, with the rest of the root, while
the service is stopped; while it runs, `sqlite3 records.db ".backup copy.db"` makes a whole copy.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from pathlib import Path
from typing import Callable, Iterator, List

from sqlalchemy import URL, Connection, create_engine, event
from sqlalchemy.exc import DatabaseError, IntegrityError
from sqlalchemy.exc import TimeoutError as NoConnection

from edge_agent.errors import InvalidConfiguration
from edge_agent.service.faults import RecordsFailed
from edge_agent.service.records.schema import METADATA

WAIT_S = 30.0  # for another writer
CONNECTIONS = 64  # at most, one for each call at work
VERSION = 2  # of the schema, kept as user_version

log = logging.getLogger(__name__)


class Transaction:
    """A connection inside a transaction; `connection` takes SQLAlchemy Core's statements."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._afterwards: List[Callable[[], None]] = []

    def after_commit(self, action: Callable[[], None]) -> None:
        """Have `action` called once what was written is on disk; not at all when it isn't."""
        self._afterwards.append(action)

    def committed(self) -> None:
        """Call what waits for the commit. The call has its effect, also where this fails."""
        for action in self._afterwards:
            try:
                action()
            except Exception:
                log.exception("What follows a change of the records failed")


class Records:
    """The service's records; may be used by any thread, and by several processes.

    Transactions raise RecordsFailed when the file can't be read or written: the disk is full, or
    another process holds the file for too long.
    """

    def __init__(self, file: Path) -> None:
        """Open the file, or make it. It holds secret keys: whoever names it closes it to others.

        Raises InvalidConfiguration when it can't be used, or is of another version.
        """
        self._engine = create_engine(
            URL.create("sqlite", database=str(file)),
            connect_args={"timeout": WAIT_S},
            pool_size=CONNECTIONS + 1,  # and the counter's
            max_overflow=0,
            pool_timeout=WAIT_S,
            pool_use_lifo=True,
        )
        event.listen(self._engine, "connect", _set_up)
        event.listen(self._engine, "begin", _begin)
        self._writing_engine = self._engine.execution_options(writes=True)
        self._writer = threading.Lock()
        self._counting = threading.Lock()
        try:
            self._prepare(file)
        except DatabaseError as error:
            self._engine.dispose()
            raise InvalidConfiguration(
                f"The service's records {file} can't be used: {_cause(error)}."
            ) from error
        self._counter = self._engine.raw_connection()  # writes nothing, so it sees all commits

    def _prepare(self, file: Path) -> None:
        """Make the tables of a new file; what has them is opened whoever writes meanwhile."""
        with self._engine.begin() as connection:
            is_new = _version(connection, file) == 0
        if is_new:
            with self._writing_engine.begin() as connection:
                if _version(connection, file) == 0:
                    METADATA.create_all(connection)
                    connection.exec_driver_sql(f"PRAGMA user_version = {VERSION}")

    @contextlib.contextmanager
    def read(self) -> Iterator[Transaction]:
        """See one state of the records, whatever is written meanwhile."""
        with _failures(), self._engine.begin() as connection:
            yield Transaction(connection)

    @contextlib.contextmanager
    def write(self) -> Iterator[Transaction]:
        """Change the records: all of it, or nothing when an exception leaves the block.

        One writer at a time: the others wait.
        """
        with _failures(), self._only_writer(), self._writing_engine.begin() as connection:
            transaction = Transaction(connection)
            yield transaction
        transaction.committed()

    def commits(self) -> int:
        """Return a number that is another one after each commit, also of another process.

        Much cheaper than a transaction, for who keeps in memory what seldom changes.
        """
        with self._counting:
            cursor = self._counter.cursor()
            cursor.execute("PRAGMA data_version")
            number: int = cursor.fetchall()[0][0]
            cursor.close()
        return number

    def close(self) -> None:
        """Close the file."""
        self._counter.close()
        self._engine.dispose()

    @contextlib.contextmanager
    def _only_writer(self) -> Iterator[None]:
        """Wait in line; left to SQLite, writers sleep and try again, and some starve."""
        if not self._writer.acquire(timeout=WAIT_S):
            raise _failed(f"other calls have been writing for {WAIT_S:g} s")
        try:
            yield
        finally:
            self._writer.release()


@contextlib.contextmanager
def _failures() -> Iterator[None]:
    try:
        yield
    except IntegrityError:
        raise  # a fault of ours
    except (DatabaseError, NoConnection) as error:
        raise _failed(_cause(error)) from error


def _failed(reason: str) -> RecordsFailed:
    log.warning("The records can't be read or written: %s", reason)
    return RecordsFailed(reason)


def _cause(error: Exception) -> str:
    return str(getattr(error, "orig", None) or error)


def _version(connection: Connection, file: Path) -> int:
    """Return the version of the tables, 0: there are none. Raises InvalidConfiguration."""
    version: int = connection.exec_driver_sql("PRAGMA user_version").scalar_one()
    if version not in (0, VERSION):
        raise InvalidConfiguration(
            f"The service's records {file} are of version {version}, and this release knows "
            f"version {VERSION} only. Use the release that wrote them, or name a new folder with "
            "--root."
        )
    return version


def _set_up(connection: object, _: object) -> None:
    connection.isolation_level = None  # type: ignore[attr-defined]  # `_begin` begins
    cursor = connection.cursor()  # type: ignore[attr-defined]
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin(connection: Connection) -> None:
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
