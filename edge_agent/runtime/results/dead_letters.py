"""Messages that couldn't be delivered: one JSON object a line, for people to look at."""

from __future__ import annotations

import json
import logging
import os
import threading
from pathlib import Path

from edge_agent.config import MIB
from edge_agent.runtime.results import event
from edge_agent.runtime.results.spool.database import StoredEvent
from edge_agent.runtime.system import files, private_files

log = logging.getLogger(__name__)

FILE_NAME = "dead-letters.jsonl"
LIMIT_BYTES = 10 * MIB  # then the file is renamed to `.1`, replacing an earlier one


class DeadLetters:
    """The file in the outbox's folder."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE_NAME
        self._lock = threading.Lock()

    def add(self, sink: str, entry: StoredEvent, reason: str, now: float) -> bool:
        """Store a message that `sink` couldn't deliver; False when it can't be stored.

        `now` in Unix seconds; any thread.
        """
        log.error("Event %s can't be delivered to %s. Giving up: %s", entry.id, sink, reason)
        letter = {
            "sink": sink,
            "time": event.iso(now),
            "reason": reason,
            "event": _readable(entry.body),
        }
        try:
            with self._lock:
                self._append(event.compact(letter) + b"\n")
        except OSError as error:
            log.error("The event can't be written to %s: %s", self._path, error)  # noqa: TRY400
            return False
        return True

    def _append(self, line: bytes) -> None:
        folder = os.open(self._path.parent, files.FOLDER_FLAGS)
        try:
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
            file = private_files.open_file(folder, FILE_NAME, flags)
            if os.fstat(file).st_size > LIMIT_BYTES:
                os.close(file)
                os.replace(FILE_NAME, f"{FILE_NAME}.1", src_dir_fd=folder, dst_dir_fd=folder)
                file = private_files.open_file(folder, FILE_NAME, flags)
        finally:
            os.close(folder)
        with os.fdopen(file, "ab") as writer:
            writer.write(line)
            writer.flush()
            os.fsync(file)


def _readable(body: bytes) -> object:
    try:
        decoded: object = json.loads(body)
    except ValueError:
        return body.decode("utf-8", "replace")  # damaged on disk
    return decoded
