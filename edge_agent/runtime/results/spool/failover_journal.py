"""The journal of an outbox at the best location that works; without any, results still flow.

When a location fails, everything pending moves to the next one. What is found at any of them when
the agent starts is recovered.
"""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path
from typing import Callable, Dict, List, Optional

from edge_agent.runtime.results.spool.journal import (
    Journal,
    JournalLocation,
    Record,
    journal_locations,
    remove_pickled,
)

log = logging.getLogger(__name__)

RECOVERED_AFTER_S = 30.0  # without a failure; then the journal counts as working again


class FailoverJournal:
    """Owns the journal in use; its methods raise nothing. `lock` is the outbox's."""

    def __init__(self, folder: Path, lock: threading.Lock) -> None:
        """`folder` is the outbox's own; journals of earlier runs are opened, none is made."""
        self.problem = ""  # why a crash may lose results, a sentence
        self._lock = lock
        self._locations = journal_locations(folder)
        self._open: Dict[JournalLocation, Journal] = {}
        self._used: Optional[Journal] = None
        self._last_complete: Optional[JournalLocation] = None  # the last that held all events
        self._append_failed = False  # in the one in use, since it was rewritten
        self._failed_at = 0.0
        remove_pickled(folder)
        for location in self._locations:
            try:
                self._open[location] = Journal(location, make=False)
            except OSError:
                log.debug("No journal in %s.", location.path, exc_info=True)

    def recover(self) -> List[Record]:
        """Return the records of earlier runs, in order of sequence."""
        found: Dict[int, Record] = {}
        for location, journal in self._open.items():
            try:
                for record in journal.read():
                    if record[1] is not None or record[0] not in found:
                        found[record[0]] = record
            except OSError:
                log.exception("The journal in %s can't be read to its end.", location.path)
            if journal.damaged:
                log.error(
                    "The journal in %s has %d damaged lines, which were skipped. Results in them "
                    "that were not stored are lost.",
                    location.path, journal.damaged,
                )  # fmt: skip
        return [found[sequence] for sequence in sorted(found)]

    def append(self, record: Record) -> None:
        """Add one; takes microseconds. With the lock."""
        if self._used is None:
            return
        try:
            self._used.append(record)
        except OSError as error:
            self._append_failed = True
            self._report_failure(f"{self._used.location.path}: {error}")
        except ValueError:
            log.debug("A result can't be written as JSON.", exc_info=True)  # the outbox logs it

    def rewrite(self, since: Callable[[int], List[Record]]) -> None:
        """Write what is pending and nothing else; without the lock, by one thread.

        `since(sequence)` returns the records after that one, called with the lock; those after -1
        end with the highest number. Calls that offer events go on meanwhile and wait only for the
        few records added last.
        """
        failures: List[str] = []
        for location in self._in_order():
            try:
                self._rewrite_in(location, since)
            except OSError as error:
                failures.append(f"{location.path}: {error}")
            else:
                self._use(location, failures)
                return
        self._report_failure("; ".join(failures))

    def close(self, remove: bool) -> str:
        """Close all, and `remove` them when nothing in them is needed; returns where it was."""
        where = str(self._used.location.path) if self._used is not None else "without a journal"
        for journal in self._open.values():
            journal.close(remove)
        self._open.clear()
        self._used = None
        return where

    def _in_order(self) -> List[JournalLocation]:
        """Return the location in use first, or last after a failure."""
        used = self._used.location if self._used is not None else None
        return sorted(self._locations, key=lambda each: (each == used) is self._append_failed)

    def _rewrite_in(self, location: JournalLocation, since: Callable[[int], List[Record]]) -> None:
        journal = self._open.get(location) or Journal(location)
        self._open[location] = journal
        with self._lock:
            records = since(-1)
        journal.prepare(records)
        with self._lock:
            journal.replace(since(records[-1][0]))
            self._used, self._append_failed = journal, False

    def _use(self, location: JournalLocation, failures: List[str]) -> None:
        others = [other for other in self._open if other != location]
        for other in others:
            self._open.pop(other).close(remove=True)
        if failures and location != self._last_complete:
            log.warning(
                "The journal of results is in %s, because a better place can't be used: %s. "
                "Results are delivered as usual. Repair the better place and restart the agent.",
                location.path, "; ".join(failures),
            )  # fmt: skip
        elif self.problem:
            calm_s = time.monotonic() - self._failed_at
            if location == self._last_complete and calm_s < RECOVERED_AFTER_S:
                return
            log.info("The journal of results works again, in %s.", location.path)
        self._last_complete, self.problem = location, ""

    def _report_failure(self, why: str) -> None:
        self._failed_at = time.monotonic()
        if not self.problem:
            self.problem = (
                f"The journal of results can't be written: {why}. Results are delivered, but a "
                "crash of the agent loses those that are not stored yet. Free memory, or remove "
                "the file or folder that is in the way."
            )
            log.error("%s", self.problem)
