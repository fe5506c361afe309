"""The database file: transactions, and what happens after they are committed."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Callable, Iterator, List

from sqlalchemy import Connection, create_engine, event

from edge_agent.service.records.schema import METADATA

WAIT_S = 30.0  # for another writer


class Transaction:
    """A connection inside a transaction; `connection` takes SQLAlchemy Core's statements."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._afterwards: List[Callable[[], None]] = []

    def after_commit(self, action: Callable[[], None]) -> None:
        """Have `action` called once what was written is on disk; not at all when it isn't."""
        self._afterwards.append(action)

    def committed(self) -> None:
        """Call what waits for the commit."""
        for action in self._afterwards:
            action()


class Records:
    """The service's records; may be used by any thread."""

    def __init__(self, file: Path) -> None:
        self._engine = create_engine(f"sqlite:///{file}", connect_args={"timeout": WAIT_S})
        event.listen(self._engine, "connect", _set_up)
        event.listen(self._engine, "begin", _begin)
        METADATA.create_all(self._engine)

    @contextlib.contextmanager
    def read(self) -> Iterator[Transaction]:
        """See one state of the records, whatever is written meanwhile."""
        with self._engine.connect() as connection:
            yield Transaction(connection)

    @contextlib.contextmanager
    def write(self) -> Iterator[Transaction]:
        """Change the records: all of it, or nothing when an exception leaves the block."""
        with self._engine.connect().execution_options(writes=True) as connection:
            transaction = Transaction(connection)
            with connection.begin():
                yield transaction
        transaction.committed()

    def close(self) -> None:
        """Close the file."""
        self._engine.dispose()


def _set_up(connection: object, _: object) -> None:
    connection.isolation_level = None  # type: ignore[attr-defined]  # `_begin` begins
    cursor = connection.cursor()  # type: ignore[attr-defined]
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin(connection: Connection) -> None:
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
