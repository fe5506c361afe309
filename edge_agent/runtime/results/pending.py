"""Events that were offered and aren't stored yet: in memory, and in the journal beside it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Collection, List, Set

from edge_agent.runtime.results.journal import Journal
from edge_agent.runtime.results.spool import Dropped, Entry

log = logging.getLogger(__name__)

LIMIT_BYTES = 16 * 1024 * 1024  # held while the disk refuses
ENTRY_BYTES = 400  # of memory beside the body


class Pending:
    """A list in order of sequence. Not thread-safe."""

    def __init__(self, folder: Path, stored_up_to: int, made: float) -> None:
        """Take over what the run before left in the journal; `made`: its time, Unix seconds."""
        self._journal = Journal(folder)
        self.entries: List[Entry] = [
            Entry(sequence, left.id, left.model, left.kind, left.verdict, made, left.body)
            for sequence, left in self._journal.read()
            if sequence > stored_up_to
        ]
        self._bytes = sum(map(_cost, self.entries))

    @property
    def overflows(self) -> bool:
        """Whether there is more than memory should hold."""
        return self._bytes > LIMIT_BYTES

    def add(self, entry: Entry) -> None:
        """Append one; takes microseconds."""
        self.entries.append(entry)
        self._bytes += _cost(entry)
        try:
            self._journal.append(entry.body)
        except OSError:
            log.debug("The journal is full.", exc_info=True)  # it is still in memory

    def after(self, model: str, sequence: int) -> List[Entry]:
        """Return those of `model` behind `sequence`."""
        return [e for e in self.entries if e.model == model and e.sequence > sequence]

    def stored(self, count: int) -> None:
        """Forget the first `count`."""
        self._keep(self.entries[count:])

    def shift(self, seconds: float) -> None:
        """Correct the times of all events: the clock was set."""
        self.entries = [entry._replace(made=entry.made + seconds) for entry in self.entries]

    def thin_out(self, delivered: Collection[int]) -> Dropped:
        """Forget what is delivered, then the oldest normal results, then the oldest others."""
        left = [entry for entry in self.entries if entry.sequence not in delivered]
        surplus = sum(map(_cost, left)) - LIMIT_BYTES * 9 // 10
        chosen: Set[int] = set()
        for entry in sorted(left, key=lambda entry: (not entry.normal, entry.sequence)):
            if surplus <= 0:
                break
            chosen.add(entry.sequence)
            surplus -= _cost(entry)
        normal = sum(entry.normal for entry in left if entry.sequence in chosen)
        self._keep([entry for entry in left if entry.sequence not in chosen])
        return Dropped(normal, len(chosen) - normal)

    def close(self) -> None:
        """Close the journal; it stays for the next run when something is left."""
        self._journal.close(remove=not self.entries)

    def _keep(self, entries: List[Entry]) -> None:
        self.entries = entries
        self._bytes = sum(map(_cost, entries))
        try:
            self._journal.replace(entry.body for entry in entries)
        except OSError:
            log.warning("The journal can't be written; a crash may lose the last results.")


def _cost(entry: Entry) -> int:
    return len(entry.body) + ENTRY_BYTES
