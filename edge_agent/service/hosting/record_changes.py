"""Changes of the records that nobody waits for: each is tried until it is written."""

from __future__ import annotations

import logging
import threading
from queue import SimpleQueue
from typing import Optional

from sqlalchemy import Update

from edge_agent.service.faults import RecordsFailed
from edge_agent.service.records.database import Records

AGAIN_S = 2.0  # after records that couldn't be written

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
            while not self._is_done(change):
                if self._is_closing.wait(AGAIN_S):
                    return

    def _is_done(self, change: Update) -> bool:
        """Write it; False while the records can't be written. What is wrong is only logged."""
        try:
            with self._records.write() as transaction:
                transaction.connection.execute(change)
        except RecordsFailed as error:
            log.warning("The status of a model isn't recorded yet: %s", error)
            return False
        except Exception:
            log.exception("The status of a model can't be recorded")
        return True
