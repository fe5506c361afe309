"""Changes of the records that nobody waits for: each is tried until it is written."""

from __future__ import annotations

import logging
import threading
from functools import partial
from queue import SimpleQueue
from typing import Optional

from sqlalchemy import Update

from edge_agent.service.faults import RecordsFailed
from edge_agent.service.records.database import Records
from edge_agent.service.records.repeating import until_recorded

log = logging.getLogger(__name__)


class RecordChanges:
    """Writes changes in the order they came, in a thread; `put` before `close`, which waits.

    What can't be written until `close` is lost.
    """

    def __init__(self, records: Records) -> None:
        self._records = records
        self._queue: SimpleQueue[Optional[Update]] = SimpleQueue()
        self._is_closing = threading.Event()
        self._thread = threading.Thread(target=self._work, name="record changes", daemon=True)

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def put(self, change: Update) -> None:
        """Have it written; returns at once."""
        self._queue.put(change)

    def close(self) -> None:
        """Try what is left once more, then end."""
        self._is_closing.set()
        self._queue.put(None)
        if self._thread.is_alive():
            self._thread.join()

    def _work(self) -> None:
        while True:
            change = self._queue.get()
            if change is None:
                return
            write = partial(self._write, change)
            if not until_recorded(write, "The status of a model", self._is_closing):
                return

    def _write(self, change: Update) -> bool:
        """Write it; what else is wrong than records that fail is only logged."""
        try:
            with self._records.write() as transaction:
                transaction.connection.execute(change)
        except RecordsFailed:
            raise
        except Exception:
            log.exception("The status of a model can't be recorded")
        return True
