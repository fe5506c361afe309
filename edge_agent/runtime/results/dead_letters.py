"""Messages that were given up: one JSON object a line, kept for people to look at."""

from __future__ import annotations

import json
import logging
from pathlib import Path

from edge_agent.runtime.results import event
from edge_agent.runtime.results.spool.database import Entry

log = logging.getLogger(__name__)

FILE_NAME = "dead-letters.jsonl"
LIMIT_BYTES = 10 * 1024 * 1024  # then the file becomes `.1`, in place of an earlier one


class DeadLetters:
    """The file in the outbox's folder."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE_NAME
        self.count = 0

    def add(self, sink: str, entry: Entry, reason: str, now: float) -> None:
        """Keep a message that `sink` couldn't deliver; `now` in Unix seconds. Never raises."""
        self.count += 1
        log.error("Event %s can't be delivered to %s: %s Given up.", entry.id, sink, reason)
        letter = {
            "sink": sink,
            "time": event.iso(now),
            "reason": reason,
            "event": json.loads(entry.body),
        }
        try:
            if self._path.exists() and self._path.stat().st_size > LIMIT_BYTES:
                self._path.replace(self._path.with_name(f"{FILE_NAME}.1"))
            with self._path.open("ab") as file:
                file.write(event.compact(letter) + b"\n")
        except OSError as error:
            log.error("It can't be kept in %s either: %s", self._path, error)  # noqa: TRY400
