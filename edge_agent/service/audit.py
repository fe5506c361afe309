"""Who changed what: a line of JSON in `audit.log` for each call that changes something, or would.

A line has the time (UTC), request id, the caller's address, account, access key id, operation, the
names and ARNs of what was changed, and the outcome. The line of a change is written in its own
transaction, and copied to the file before the answer, or at the next start after a crash. Refused
calls have a line, too. Strangers, whose account is empty and whose access key id is a claim only,
get `STRANGERS_PER_S` lines a second at most: they push nobody's lines out of the file.

`audit.log` is moved to `audit.log.1`, in place of what is there, when it would have more than
`MOST_BYTES`. Lines reach the disk when the system writes them.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import threading
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Dict, List, Mapping, Sequence
from urllib.parse import unquote

from sqlalchemy import Row, delete, insert, select

from edge_agent.service.faults import RecordsFailed, Throttled
from edge_agent.service.records.database import Records, Transaction
from edge_agent.service.records.schema import AUDIT_LINES
from edge_agent.service.throttle import Throttle

MOST_BYTES = 64 * 2**20
MOST_WAITING = 100_000  # lines that a file that can't be written leaves in the records
COPIED_TOGETHER = 1000
STRANGERS_PER_S = 1.0
STRANGERS_AT_ONCE = 100
MOST_CHARACTERS = 256  # of a name that a refused call gives
IDS = (
    "ProjectName", "ProjectArn", "DatasetType", "ModelVersion", "ModelArn", "JobName",
    "ResourceArn",
)  # fmt: skip

log = logging.getLogger(__name__)


@dataclass
class AuditEntry:
    """What a line says of a call; completed as more becomes known."""

    request_id: str
    time: float  # seconds since 1970
    peer: str  # the caller's address
    access_key: str = ""  # a claim only, while there is no account
    account: str = ""
    region: str = ""
    operation: str = ""  # with its service, such as lookoutvision:CreateProject
    is_change: bool = False  # whether the operation changes something
    ids: Dict[str, object] = field(default_factory=dict)

    def line(self, outcome: str) -> str:
        """`outcome`: "OK", or the code of the fault."""
        facts = {
            "time": datetime.fromtimestamp(self.time, timezone.utc).isoformat(),
            "requestId": self.request_id,
            "peer": self.peer,
            "account": self.account,
            "accessKeyId": self.access_key,
            "region": self.region,
            "operation": self.operation,
            "ids": self.ids,
            "outcome": outcome,
        }
        return json.dumps(facts)


class AuditLog:
    """Writes the file; may be used by any thread."""

    def __init__(self, file: Path, records: Records, most_bytes: int = MOST_BYTES) -> None:
        """Copy what a crash has left in the records."""
        self._file, self._records, self._most_bytes = file, records, most_bytes
        self._lock = threading.Lock()
        self._strangers = Throttle(STRANGERS_PER_S, STRANGERS_AT_ONCE)
        self._copied = 0  # id of the last row in the file
        self._is_failing = False
        self.copy()

    def keep(self, transaction: Transaction, entry: AuditEntry) -> None:
        """Write the line of a change in its transaction; it is in the file when that has ended."""
        run, row = transaction.connection.execute, AUDIT_LINES.c
        made: Any = run(insert(AUDIT_LINES).values(line=entry.line("OK")))
        old = max(self._copied, made.inserted_primary_key[0] - MOST_WAITING)
        run(delete(AUDIT_LINES).where(row.id <= old))
        transaction.after_commit(self.copy)

    def copy(self) -> None:
        """Copy lines from the records to the file."""
        with self._lock:
            rows = self._waiting()
            while rows and self._append([row.line for row in rows]):
                self._copied = rows[-1].id
                rows = self._waiting()

    def close(self) -> None:
        """Forget in the records what is in the file."""
        with contextlib.suppress(RecordsFailed), self._records.write() as transaction:
            old = AUDIT_LINES.c.id <= self._copied
            transaction.connection.execute(delete(AUDIT_LINES).where(old))

    def refused(self, entry: AuditEntry, code: str) -> None:
        """Write the line of a call that changed nothing."""
        try:
            if not entry.account:
                self._strangers.take("", "")
        except Throttled:
            return
        with self._lock:
            self._append([entry.line(code)])

    def _waiting(self) -> Sequence[Row[Any]]:
        rows = select(AUDIT_LINES).where(AUDIT_LINES.c.id > self._copied)
        rows = rows.order_by(AUDIT_LINES.c.id).limit(COPIED_TOGETHER)
        try:
            with self._records.read() as transaction:
                return transaction.connection.execute(rows).all()
        except RecordsFailed:  # which has logged why; the lines stay there
            return []

    def _append(self, lines: List[str]) -> bool:
        """Return whether the lines are in the file; what stops them is logged once."""
        try:
            self._write("".join(f"{line}\n" for line in lines).encode())
        except OSError as error:
            self._say_once(error)
            return False
        self._is_failing = False
        return True

    def _say_once(self, error: OSError) -> None:
        if not self._is_failing:
            log.error(
                "%s can't be written: %s. Lines of changes wait in the records; correct that.",
                self._file,
                error.strerror,
            )
        self._is_failing = True

    def _write(self, lines: bytes) -> None:
        """Append whole lines, or nothing. Raises OSError."""
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        file = os.open(self._file, flags, 0o600)
        try:
            size = os.fstat(file).st_size
            if size and size + len(lines) > self._most_bytes:
                self._file.replace(f"{self._file}.1")
            elif os.write(file, lines) == len(lines):
                return
            else:
                os.ftruncate(file, size)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        finally:
            os.close(file)
        self._write(lines)


def ids_of(values: Mapping[str, object]) -> Dict[str, object]:
    """Return what is named in parameters or in an answer, groups of it included."""
    found = {name: value for name, value in values.items() if name in IDS}
    for value in values.values():
        if isinstance(value, Mapping):
            found = {**ids_of(value), **found}
    return found


def ids_in_path(labels: Mapping[str, str]) -> Dict[str, object]:
    """Return what the path of a request names, before anything of it is validated."""
    named = {f"{label[0].upper()}{label[1:]}": value for label, value in labels.items()}
    return {name: unquote(value)[:MOST_CHARACTERS] for name, value in named.items() if name in IDS}
