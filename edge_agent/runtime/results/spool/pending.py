"""Events that were offered and aren't stored yet: in memory, and in the journal beside it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Collection, List, Optional, Set

from edge_agent.runtime.results import event
from edge_agent.runtime.results.event import Draft
from edge_agent.runtime.results.spool.database import Dropped, Entry
from edge_agent.runtime.results.spool.journal import Journal

log = logging.getLogger(__name__)

LIMIT_BYTES = 16 * 1024 * 1024  # held while the disk refuses
EVENT_BYTES = 1000  # of memory, besides the body


class Event:
    """One of them; `entry` is what is stored, made of the draft in the outbox's thread."""

    __slots__ = ("draft", "entry", "sequence")

    def __init__(self, sequence: int, draft: Draft) -> None:
        self.sequence, self.draft = sequence, draft
        self.entry: Optional[Entry] = None

    def encoded(self, thing: str) -> Entry:
        """Return what is stored."""
        if self.entry is None:
            draft = self.draft
            body = event.encode(draft, self.sequence, thing)
            facts = (draft.id, draft.model, draft.kind, draft.verdict, draft.made)
            self.entry = Entry(self.sequence, *facts, body)
        return self.entry

    @property
    def cost(self) -> int:
        """Bytes of memory, about."""
        return EVENT_BYTES + (len(self.entry.body) if self.entry else 0)


class Pending:
    """Events in order of sequence. Not thread-safe."""

    def __init__(self, folder: Path, stored_up_to: int) -> None:
        """Take over what the run before left in the journal."""
        self._journal = Journal(folder)
        self.events: List[Event] = []
        try:
            for sequence, draft in self._journal.read():
                if sequence > stored_up_to:
                    self.events.append(Event(sequence, draft))
        except Exception:
            log.exception("The journal can't be read on: %d events of it are.", len(self.events))
        self._keep(self.events)  # without a record that the kill cut off in the middle

    @property
    def overflows(self) -> bool:
        """Whether there is more than memory should hold."""
        return sum(event.cost for event in self.events) > LIMIT_BYTES

    def add(self, sequence: int, draft: Draft) -> None:
        """Append one; takes microseconds."""
        self.events.append(Event(sequence, draft))
        try:
            self._journal.append((sequence, draft))
        except OSError:
            log.debug("The journal is full.", exc_info=True)  # it is still in memory

    def entries(self, model: str, after: int) -> List[Entry]:
        """Return those of `model` behind sequence `after` that could have been stored."""
        entries = [event.entry for event in self.events]
        return [e for e in entries if e is not None and e.model == model and e.sequence > after]

    def stored(self, count: int) -> None:
        """Forget the first `count`."""
        self._keep(self.events[count:])

    def shift(self, seconds: float) -> None:
        """Correct the times of all events: the clock was set."""
        for one in self.events:
            one.draft = one.draft._replace(made=one.draft.made + seconds)
            if one.entry is not None:
                one.entry = one.entry._replace(made=one.entry.made + seconds)

    def forget(self, delivered: Collection[int]) -> Set[int]:
        """Forget what is delivered and needn't be stored any more; returns what that was."""
        gone = {event.sequence for event in self.events if event.sequence in delivered}
        if gone:
            self._keep([event for event in self.events if event.sequence not in gone])
        return gone

    def thin_out(self) -> Dropped:
        """Drop the oldest normal results, then the oldest others, until memory has room again."""
        normal = [event for event in self.events if event.draft.verdict == "normal"]
        others = [event for event in self.events if event.draft.verdict != "normal"]
        surplus = sum(event.cost for event in self.events) - LIMIT_BYTES * 9 // 10
        chosen: Set[int] = set()
        for one in (*normal, *others):
            if surplus <= 0:
                break
            chosen.add(one.sequence)
            surplus -= one.cost
        self._keep([event for event in self.events if event.sequence not in chosen])
        dropped = sum(event.sequence in chosen for event in normal)
        return Dropped(dropped, len(chosen) - dropped)

    def close(self) -> None:
        """Close the journal; it stays for the next run when something is left."""
        self._journal.close(remove=not self.events)

    def _keep(self, events: List[Event]) -> None:
        self.events = events
        try:
            self._journal.replace((event.sequence, event.draft) for event in events)
        except OSError:
            log.warning("The journal can't be written; a crash may lose the last results.")
