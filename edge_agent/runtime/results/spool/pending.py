"""Events that aren't stored yet, in memory and in the journal; deliveries that aren't either."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from pathlib import Path
from typing import Collection, Dict, Iterable, List, Optional, Sequence, Set, Tuple
from typing import Counter as CounterType

from edge_agent.config import MIB
from edge_agent.runtime.results import event
from edge_agent.runtime.results.event import EventDraft
from edge_agent.runtime.results.spool.database import Dropped, StoredEvent
from edge_agent.runtime.results.spool.failover_journal import FailoverJournal
from edge_agent.runtime.results.spool.journal import Record

log = logging.getLogger(__name__)

LIMIT_BYTES = 16 * MIB  # held while the disk fails
EVENT_BYTES = 1000  # of memory, besides the body


class PendingEvent:
    """An event to be stored; `entry` is its row, made from the draft in the outbox's thread."""

    __slots__ = ("draft", "entry", "sequence")

    def __init__(self, sequence: int, draft: EventDraft) -> None:
        self.sequence, self.draft = sequence, draft
        self.entry: Optional[StoredEvent] = None

    def encoded(self, thing: str, uptime_s: float) -> StoredEvent:
        """Return the row to store; it is as old as its first encoding, at `uptime_s`."""
        if self.entry is None:
            draft = self.draft
            body = event.encode(draft, self.sequence, thing)
            facts = (draft.id, draft.model, draft.kind, draft.verdict)
            self.entry = StoredEvent(self.sequence, *facts, uptime_s, body)
        return self.entry

    @property
    def memory_bytes(self) -> int:
        """Bytes of memory, about."""
        return EVENT_BYTES + (len(self.entry.body) if self.entry else 0)


class PendingEvents:
    """Events in order of sequence. `lock` is the outbox's; callers hold it, but where noted."""

    def __init__(self, folder: Path, lock: threading.Lock) -> None:
        """Recover what the last run left in the journal."""
        self._lock = lock
        self.events: List[PendingEvent] = []
        self.highest = 0  # the last sequence number used
        self._journals = FailoverJournal(folder, lock)
        for sequence, draft in self._journals.recover():
            self.highest = max(self.highest, sequence)
            if draft is not None:
                self.events.append(PendingEvent(sequence, draft))
        self.rewrite()  # without damaged and incomplete lines

    @property
    def journal_problem(self) -> str:
        """Why a crash may lose what is pending, a sentence; "": it doesn't."""
        return self._journals.problem

    @property
    def overflows(self) -> bool:
        """Whether there is more than memory should hold."""
        return sum(each.memory_bytes for each in self.events) > LIMIT_BYTES

    def add(self, sequence: int, draft: EventDraft) -> None:
        """Append one; takes microseconds."""
        self.events.append(PendingEvent(sequence, draft))
        self.highest = sequence
        self._journals.append((sequence, draft))

    def sequences(self) -> List[int]:
        """Return the sequences."""
        return [each.sequence for each in self.events]

    def encoded(self, thing: str, uptime_s: float) -> Tuple[List[StoredEvent], int]:
        """Return the rows to store, and how many events can't be written as JSON.

        Those are dropped. Called without the lock.
        """
        with self._lock:
            events = list(self.events)
        entries, broken = [], set()
        for each in events:
            try:
                entries.append(each.encoded(thing, uptime_s))
            except Exception:
                log.exception("Event %s can't be written as JSON.", each.draft.id)
                broken.add(each.sequence)
        with self._lock:
            self.remove(broken)
        return entries, len(broken)

    def entries(self, model: str, after: int) -> List[StoredEvent]:
        """Return the rows of `model` after sequence `after` that aren't on disk."""
        entries = [each.entry for each in self.events]
        return [e for e in entries if e is not None and e.model == model and e.sequence > after]

    def remove(self, sequences: Collection[int]) -> Set[int]:
        """Remove events that needn't be stored any more; returns which were there."""
        gone = {each.sequence for each in self.events if each.sequence in sequences}
        if gone:
            self.events = [each for each in self.events if each.sequence not in gone]
        return gone

    def drop_oldest(self) -> Dropped:
        """Drop the oldest normal results, then the oldest others, until memory has room again."""
        normal = [each for each in self.events if each.draft.verdict == "normal"]
        others = [each for each in self.events if each.draft.verdict != "normal"]
        surplus = sum(each.memory_bytes for each in self.events) - LIMIT_BYTES * 9 // 10
        chosen: Set[int] = set()
        for each in (*normal, *others):
            if surplus <= 0:
                break
            chosen.add(each.sequence)
            surplus -= each.memory_bytes
        self.remove(chosen)
        dropped = sum(each.sequence in chosen for each in normal)
        return Dropped(dropped, len(chosen) - dropped)

    def rewrite(self) -> None:
        """Write what is pending to the journal; called without the lock, by one thread."""
        self._journals.rewrite(self._since)

    def close(self, stored: bool) -> None:
        """Close the journal; unless all is `stored` it stays for the next run."""
        where = self._journals.close(remove=stored and not self.events)
        if self.events:
            log.error(
                "%d results are only in the journal (%s). The next start of the agent delivers "
                "them. If the journal is in /dev/shm, a restart of the device loses them.",
                len(self.events), where,
            )  # fmt: skip

    def _since(self, sequence: int) -> List[Record]:
        """Return the events after `sequence`, and at the end the highest number given."""
        records: List[Record] = [
            (each.sequence, each.draft) for each in self.events if each.sequence > sequence
        ]
        return [*records, (self.highest, None)]


class DeliveryProgress:
    """What each sink has delivered that isn't on disk yet, and what waits. Not thread-safe."""

    def __init__(self, sinks: Sequence[str]) -> None:
        self._delivered: Dict[str, Set[int]] = {sink: set() for sink in sinks}
        self._waiting: CounterType[str] = Counter(dict.fromkeys(sinks, 0))

    def offered(self) -> None:
        """Count one more event for every sink."""
        for sink in self._delivered:
            self._waiting[sink] += 1

    def mark_delivered(self, sink: str, sequences: Collection[int]) -> None:
        """Record that `sink` is done with these."""
        self._delivered[sink].update(sequences)
        self._waiting[sink] -= len(sequences)

    def dropped(self, counts: CounterType[str]) -> None:
        """Subtract what was dropped before a sink had delivered it."""
        self._waiting.subtract(counts)

    def reset(self, sink: str, on_disk: int, pending: Iterable[int]) -> None:
        """Start counting: so many wait on disk, and what is pending."""
        self._waiting[sink] = on_disk + len(set(pending) - self._delivered[sink])

    def waiting(self, sink: str) -> int:
        """Return about how many wait for `sink`."""
        return max(0, self._waiting[sink])

    def undelivered(self, sink: str, entries: Iterable[StoredEvent]) -> List[StoredEvent]:
        """Return those that `sink` hasn't delivered."""
        done = self._delivered[sink]
        return [entry for entry in entries if entry.sequence not in done]

    def unsaved(self) -> Dict[str, Set[int]]:
        """Return by sink what was delivered and isn't on disk yet."""
        return {sink: set(done) for sink, done in self._delivered.items() if done}

    def saved(self, delivered: Dict[str, Set[int]]) -> None:
        """Remove what is on disk now."""
        for sink, done in delivered.items():
            self._delivered[sink] -= done

    def delivered_everywhere(self) -> Set[int]:
        """Return what every sink has delivered."""
        return set.intersection(*self._delivered.values())
