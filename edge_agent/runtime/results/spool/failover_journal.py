"""The journal of an outbox, in the best place that takes it; results go on where none does.

A place that takes no more is left for the next one, with all that is pending. Whatever is in any of
the places when the agent starts is taken over.
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

CALM_S = 30.0  # a place that refused a record must take all for so long before it counts as whole


class FailoverJournal:
    """Owns the journal in use; its methods raise nothing. `lock` is the outbox's."""

    def __init__(self, folder: Path, lock: threading.Lock) -> None:
        """`folder` is the outbox's own; journals of earlier runs are opened, none is made."""
        self.problem = ""  # why a crash may lose results, for people
        self._lock = lock
        self._places = journal_locations(folder)
        self._open: Dict[JournalLocation, Journal] = {}
        self._used: Optional[Journal] = None
        self._last_complete: Optional[JournalLocation] = (
            None  # the last place that held all that is pending
        )
        self._refused = False  # the one in use did not take a record
        self._failed_at = 0.0
        remove_pickled(folder)
        for place in self._places:
            try:
                self._open[place] = Journal(place, make=False)
            except OSError:
                log.debug("No journal in %s.", place.path, exc_info=True)

    def recover(self) -> List[Record]:
        """Return what earlier runs left, in order of sequence."""
        found: Dict[int, Record] = {}
        for place, journal in self._open.items():
            try:
                for record in journal.read():
                    if record[1] is not None or record[0] not in found:
                        found[record[0]] = record
            except OSError:
                log.exception("The journal in %s can't be read to its end.", place.path)
            if journal.damaged:
                log.error(
                    "%d damaged lines of the journal in %s were left out; results in them that "
                    "were not stored are lost.",
                    journal.damaged,
                    place.path,
                )
        return [found[sequence] for sequence in sorted(found)]

    def append(self, record: Record) -> None:
        """Add one; takes microseconds. With the lock."""
        if self._used is None:
            return
        try:
            self._used.append(record)
        except OSError as error:
            self._refused = True
            self._report_failure(f"{self._used.place.path}: {error}")
        except ValueError:
            log.debug("A result can't be written as JSON.", exc_info=True)  # the outbox says so

    def rewrite(self, since: Callable[[int], List[Record]]) -> None:
        """Hold what is pending and nothing else; without the lock, by one thread.

        `since(sequence)` returns the records behind that one, called with the lock; those behind -1
        end with the highest number given. The bulk is written beside calls that offer events, which
        wait for the rest only.
        """
        failures: List[str] = []
        for place in self._in_order():
            try:
                self._rewrite_in(place, since)
            except OSError as error:
                failures.append(f"{place.path}: {error}")
            else:
                self._use(place, failures)
                return
        self._report_failure("; ".join(failures))

    def close(self, remove: bool) -> str:
        """Close all, and `remove` them when nothing in them is needed; returns the path."""
        where = str(self._used.place.path) if self._used is not None else "without a journal"
        for journal in self._open.values():
            journal.close(remove)
        self._open.clear()
        self._used = None
        return where

    def _in_order(self) -> List[JournalLocation]:
        """Return the place in use first, or last when it did not take a record."""
        used = self._used.place if self._used is not None else None
        return sorted(self._places, key=lambda place: (place == used) is self._refused)

    def _rewrite_in(self, place: JournalLocation, since: Callable[[int], List[Record]]) -> None:
        journal = self._open.get(place) or Journal(place)
        self._open[place] = journal
        with self._lock:
            records = since(-1)
        journal.prepare(records)
        with self._lock:
            journal.replace(since(records[-1][0]))
            self._used, self._refused = journal, False

    def _use(self, place: JournalLocation, failures: List[str]) -> None:
        others = [other for other in self._open if other != place]
        for other in others:
            self._open.pop(other).close(remove=True)
        if failures and place != self._last_complete:
            log.warning(
                "The journal of results lies in %s, because another place can't be used (%s). "
                "Results are delivered as ever; mend that and restart the agent.",
                place.path,
                "; ".join(failures),
            )
        elif (
            self.problem
            and place == self._last_complete
            and time.monotonic() < self._failed_at + CALM_S
        ):
            return
        elif self.problem:
            log.info("The journal of results is whole again, in %s.", place.path)
        self._last_complete, self.problem = place, ""

    def _report_failure(self, why: str) -> None:
        self._failed_at = time.monotonic()
        if not self.problem:
            self.problem = (
                f"The journal of results can't be written ({why}). Results are delivered, but a "
                "crash of the agent loses those that were not stored yet; free memory or remove "
                "what is in the way."
            )
            log.error("%s", self.problem)
