"""Every event waits here until each sink has delivered it.

Offering puts an event into the journal (memory that outlives the process) and never waits. A thread
of the outbox stores what was offered, at most every `commit_every_s`, in one commit together with
what was delivered meanwhile; only then may a sink send it. While the disk refuses, events stay in
memory and are sent from there, up to a limit.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Callable, DefaultDict, Dict, List, Optional, Sequence, Set

from edge_agent.config import OutboxSettings
from edge_agent.runtime.results.event import Draft
from edge_agent.runtime.results.spool.claim import Claim
from edge_agent.runtime.results.spool.database import DiskError, Dropped, Entry, Spool
from edge_agent.runtime.results.spool.pending import Pending

log = logging.getLogger(__name__)

MIB = 1024 * 1024
SETTLE_WITHIN_S = 2.0  # deliveries are noted that late when nothing new comes
RETRY_S = 5.0  # then the disk is tried again
CLOCK_WAS_SET_S = 5.0  # a jump of the wall clock beyond that is a correction


class Outbox:
    """Owns what is pending, the spool, and the thread that stores; until `close`."""

    def __init__(
        self,
        settings: OutboxSettings,
        folder: Path,
        thing: str,
        sinks: Sequence[str],
        on_dropped: Callable[[Dropped, str], None],
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """Open `folder` and take over what the run before left; `thing`: the device's name.

        `on_dropped` hears how many events were given up undelivered, and why. Raises
        InvalidConfiguration when another agent uses the folder.
        """
        self._settings, self._folder, self._sinks = settings, folder, tuple(sinks)
        self._thing = thing
        self._on_dropped, self._clock, self._wall = on_dropped, clock, wall
        self._clock_offset = wall() - clock()
        self.trouble = ""  # what is wrong with the disk, for people
        self._claim = Claim(folder)
        self._wake, self._closing = threading.Event(), False
        self._listeners: List[Callable[[], None]] = []
        self._spool: Optional[Spool] = None
        self._store_lock = threading.Lock()  # of the spool
        self._lock = threading.Lock()  # of what follows
        self._sequence = 0
        self._ends: Dict[str, int] = {}  # model → its last event that may be sent
        self._waiting: Counter[str] = Counter()  # by sink
        self._delivered: DefaultDict[str, Set[int]] = defaultdict(set)  # not noted on disk yet
        self._notes: Dict[str, str] = {}
        self._pending = Pending(folder, self._open())
        if self._pending.events:
            self._sequence = max(self._sequence, self._pending.events[-1].sequence)
            self._waiting.update({sink: len(self._pending.events) for sink in self._sinks})
            self._wake.set()
        self._thread = threading.Thread(target=self._run, name="outbox", daemon=True)

    def start(self) -> None:
        """Begin to store."""
        self._thread.start()

    def offer(self, draft: Draft) -> None:
        """Take an event; returns at once and never raises."""
        with self._lock:
            self._sequence += 1
            self._pending.add(self._sequence, draft)
            for sink in self._sinks:
                self._waiting[sink] += 1
        if not self._wake.is_set():
            self._wake.set()

    def read(self, sink: str, model: str, after: int, limit: int) -> List[Entry]:
        """Return the next events of `model` behind sequence `after` for `sink`, in order."""
        found: List[Entry] = []
        with self._store_lock:
            while not found:
                rows = self._from_spool(sink, model, after, limit)
                if not rows:
                    break
                after = rows[-1].sequence
                found = self._undelivered(sink, rows)
        if self.trouble and len(found) < limit:
            with self._lock:
                held = self._pending.entries(model, after)
            found += self._undelivered(sink, held)
        return found[:limit]

    def settle(self, sink: str, sequences: Sequence[int]) -> None:
        """Note that `sink` has nothing more to do with these events."""
        with self._lock:
            self._delivered[sink].update(sequences)
            self._waiting[sink] -= len(sequences)

    def ends(self) -> Dict[str, int]:
        """Return by model the sequence of the last event that may be sent."""
        with self._lock:
            return dict(self._ends)

    def count(self, sink: str, model: str, after: int) -> int:
        """Return about how many events of `model` behind `after` wait on disk for `sink`."""
        try:
            with self._store_lock:
                return self._spool.count(sink, model, after) if self._spool else 0
        except DiskError:
            return 0

    def waiting(self, sink: str) -> int:
        """Return about how many events wait for `sink`."""
        with self._lock:
            return max(0, self._waiting[sink])

    def note(self, name: str, text: str) -> None:
        """Keep a text with the next commit."""
        with self._lock:
            self._notes[name] = text

    def noted(self, name: str) -> str:
        """Return a text that an earlier run kept, or ""."""
        with self._store_lock:
            return self._spool.notes().get(name, "") if self._spool else ""

    def on_stored(self, listener: Callable[[], None]) -> None:
        """Call `listener` whenever further events may be sent; register before `start`."""
        self._listeners.append(listener)

    def close(self, within_s: float) -> None:
        """Store what is left; what can't be stored in time waits in the journal."""
        self._closing = True
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join(within_s)
            if self._thread.is_alive():
                return  # the disk hangs; the next run takes over the journal
        if self._spool is not None:
            self._spool.close()
        self._pending.close()
        self._claim.release()

    def _run(self) -> None:
        while not self._closing:
            with self._lock:
                unsettled = any(self._delivered.values())
            limit_s = RETRY_S if self.trouble else SETTLE_WITHIN_S if unsettled else None
            self._wake.wait(limit_s)
            self._wake.clear()
            try:
                self._follow_clock()
                self._store()
            except Exception:
                log.exception("Storing results failed; trying again.")
            end = self._clock() + self._settings.commit_every_s
            while not self._closing and self._clock() < end:
                time.sleep(min(0.05, self._settings.commit_every_s))
        self._store()

    def _store(self) -> None:
        """Commit what was offered and delivered; on failure all of it stays where it is."""
        with self._lock:
            events = list(self._pending.events)
            delivered = {sink: set(done) for sink, done in self._delivered.items() if done}
            notes, self._notes = self._notes, {}
        entries = [event.encoded(self._thing) for event in events]
        if entries:
            notes["last_sequence"], notes["last_id"] = str(entries[-1].sequence), entries[-1].id
        if entries or delivered or notes:
            try:
                with self._store_lock:
                    self._commit(entries, delivered, notes)
            except (DiskError, OSError) as error:
                self._disk_refuses(error, notes)
            else:
                self._stored(len(entries), delivered)
        if entries:
            with self._lock:
                self._ends.update((entry.model, entry.sequence) for entry in entries)
            for listener in self._listeners:
                listener()

    def _commit(
        self, entries: List[Entry], delivered: Dict[str, Set[int]], notes: Dict[str, str]
    ) -> None:
        if self._spool is None:
            self._spool = Spool(self._folder, self._sinks)
        self._spool.append(entries, delivered, notes)
        oldest = self._wall() - 3600 * self._settings.max_age_h
        for dropped, why in self._spool.trim(self._settings.limit_mib * MIB, oldest):
            self._drop(dropped, why)

    def _drop(self, dropped: Dropped, why: str) -> None:
        with self._lock:
            for sink in self._sinks:
                self._waiting[sink] -= dropped.normal + dropped.others
        self._on_dropped(dropped, why)

    def _stored(self, count: int, delivered: Dict[str, Set[int]]) -> None:
        if self.trouble:
            self.trouble = ""
            log.info("The outbox stores results again.")
        with self._lock:
            if count:
                self._pending.stored(count)
            for sink, done in delivered.items():
                self._delivered[sink] -= done

    def _disk_refuses(self, error: Exception, notes: Dict[str, str]) -> None:
        """Go on from memory; say so once."""
        sentence = (
            f"The outbox can't store results in {self._folder} ({error}). Results are held in "
            "memory and sent from there; free space or mend the disk."
        )
        if sentence != self.trouble:
            log.error("%s", sentence)
        self.trouble = sentence
        dropped = Dropped()
        with self._lock:
            self._notes = {**notes, **self._notes}
            everywhere = set.intersection(*(self._delivered[sink] for sink in self._sinks))
            gone = self._pending.forget(everywhere)
            for sink in self._sinks:
                self._delivered[sink] -= gone
            if self._pending.overflows:
                dropped = self._pending.thin_out()
        if dropped:
            self._drop(dropped, "memory full while the disk refuses")

    def _from_spool(self, sink: str, model: str, after: int, limit: int) -> List[Entry]:
        try:
            return self._spool.read(sink, model, after, limit) if self._spool else []
        except DiskError:
            self._wake.set()  # the next commit says what is wrong, and mends it
            return []

    def _undelivered(self, sink: str, entries: List[Entry]) -> List[Entry]:
        with self._lock:
            done = self._delivered[sink]
            return [entry for entry in entries if entry.sequence not in done]

    def _follow_clock(self) -> None:
        """Keep the ages of events right when the wall clock is set."""
        offset = self._wall() - self._clock()
        jump, self._clock_offset = offset - self._clock_offset, offset
        if abs(jump) < CLOCK_WAS_SET_S:
            return
        log.warning("The clock was set by %+.0f s; waiting results keep their ages.", jump)
        with self._lock:
            self._pending.shift(jump)
        try:
            with self._store_lock:
                if self._spool is not None:
                    self._spool.shift(jump)
        except DiskError:
            log.warning("The ages of stored results are off by %+.0f s now.", jump)

    def _open(self) -> int:
        """Open the spool, which is tried again later when the disk refuses.

        Returns the sequence up to which the journal is stored already. Numbers go on where they
        ended; where that isn't known they begin with the microseconds of now, which is above
        whatever was given before.
        """
        stored = 0
        try:
            self._spool = spool = Spool(self._folder, self._sinks)
        except (DiskError, OSError) as error:
            self.trouble = f"The outbox can't be opened in {self._folder} ({error})."
            log.error("%s", self.trouble)  # noqa: TRY400 - a state of the disk, no fault of ours
        else:
            if not spool.salvaged:
                stored = int(spool.notes().get("last_sequence", "0"))
            for sink in self._sinks:
                for model, (count, end) in spool.waiting(sink).items():
                    self._waiting[sink] += count
                    self._ends[model] = max(end, self._ends.get(model, 0))
        self._sequence = stored or int(self._wall() * 1_000_000)
        return stored
