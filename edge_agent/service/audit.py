"""Who changed what: a line of JSON in `audit.log` for each call that changes something.

A line has the time (UTC), request id, account, access key id, operation, the names and ARNs of what
was changed, and the outcome. `audit.log` is moved to `audit.log.1`, in place of what is there, when
it would have more than `MOST_BYTES`. Lines reach the disk when the system writes them.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import threading
from datetime import datetime, timezone
from pathlib import Path
from typing import Dict, Mapping

from edge_agent.service.call import Call

MOST_BYTES = 64 * 2**20
IDS = (
    "ProjectName", "ProjectArn", "DatasetType", "ModelVersion", "ModelArn", "JobName",
    "ResourceArn",
)  # fmt: skip

log = logging.getLogger(__name__)


class AuditLog:
    """Writes the file; may be used by any thread."""

    def __init__(self, file: Path, most_bytes: int = MOST_BYTES) -> None:
        self._file, self._most_bytes = file, most_bytes
        self._lock = threading.Lock()
        self._is_failing = False

    def record(self, call: Call, outcome: str, answer: Mapping[str, object]) -> None:
        """Write a line; `outcome` is "OK" or the code of the fault, `answer` empty with a fault.

        A disk that is full is logged once, and doesn't stop the call.
        """
        facts = {
            "time": datetime.fromtimestamp(call.now, timezone.utc).isoformat(),
            "requestId": call.request_id,
            "account": call.account,
            "accessKeyId": call.access_key,
            "region": call.region,
            "operation": f"{call.service}:{call.operation}",
            "ids": {**_ids(call.parameters), **_ids(answer)},
            "outcome": outcome,
        }
        line = json.dumps(facts).encode() + b"\n"
        with self._lock:
            try:
                self._write(line)
            except OSError as error:
                self._say_once(error)
            else:
                self._is_failing = False

    def _write(self, line: bytes) -> None:
        """Append a whole line, or nothing. Raises OSError."""
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        file = os.open(self._file, flags, 0o600)
        try:
            size = os.fstat(file).st_size
            if size and size + len(line) > self._most_bytes:
                self._file.replace(f"{self._file}.1")
            elif os.write(file, line) == len(line):
                return
            else:
                os.ftruncate(file, size)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        finally:
            os.close(file)
        self._write(line)

    def _say_once(self, error: OSError) -> None:
        if not self._is_failing:
            log.error(
                "%s can't be written: %s. Calls go on without their audit lines; correct that.",
                self._file,
                error.strerror,
            )
        self._is_failing = True


def _ids(values: Mapping[str, object]) -> Dict[str, object]:
    """Return what is named in parameters or in an answer, groups of it included."""
    found = {name: value for name, value in values.items() if name in IDS}
    for value in values.values():
        if isinstance(value, Mapping):
            found = {**_ids(value), **found}
    return found
