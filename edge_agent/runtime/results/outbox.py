"""Every event waits here until each sink has delivered it.

Offering writes an event to the journal (memory that survives the process) and never waits. The
outbox's thread stores what was offered, at most every `commit_every_s`, in one commit together with
what was delivered meanwhile; only then may a sink send it. While the disk fails, events stay in
memory and are sent from there, up to a limit.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Callable, Dict, List, Optional, Sequence, Set

from edge_agent.config import MIB, OutboxSettings
from edge_agent.errors import InvalidConfiguration
from edge_agent.runtime.results.event import EventDraft
from edge_agent.runtime.results.spool.database import (
    DiskError,
    Dropped,
    Spool,
    StoredEvent,
    is_damage,
    parse_int,
)
from edge_agent.runtime.results.spool.folder_lock import FolderLock
from edge_agent.runtime.results.spool.pending import DeliveryProgress, PendingEvents
from edge_agent.runtime.system.machine_clock import THIS_MACHINE, MachineClock, clock_error

log = logging.getLogger(__name__)

POLL_S = 2.0  # a delivery is committed at most that late, a failed disk is tried again
FRESH_S = 5.0  # normal results stored within that time may be in flight
LOST = 1_000_000  # sequence numbers to skip: a damaged database may have held them
CLOCK_WAS_SET_S = 5.0  # a larger jump of the wall clock is a correction
LAST_SEQUENCE, LAST_ID = "last_sequence", "last_id"


class Outbox:
    """Owns what is pending, the spool, and the thread that stores; until `close`."""

    def __init__(
        self,
        settings: OutboxSettings,
        folder: Path,
        thing: str,
        sinks: Sequence[str],
        on_dropped: Callable[[Dropped, str], None],
        clock: MachineClock = THIS_MACHINE,
    ) -> None:
        """Open `folder` and recover what the last run left; `thing`: the device's name.

        `on_dropped` receives how many events were dropped, and why. Raises InvalidConfiguration
        when another agent uses the folder, or another user may write there.
        """
        self._settings, self._folder, self._sinks = settings, folder, tuple(sinks)
        self._thing = thing
        self._on_dropped, self._clock = on_dropped, clock
        if wrong := clock_error(clock.wall()):
            log.warning("%s Results keep the time that it shows.", wrong)
        self._wall_ahead_s = clock.wall() - clock.uptime_s()  # changes when the clock is set
        self.problem = ""  # what is wrong with the disk, a sentence
        self.damage = ""  # what was done about a damaged database, a sentence
        self.takeovers = 0  # how often rows of an earlier run were recovered
        self._folder_lock = FolderLock(folder)
        with suppress(OSError):  # logged when the outbox is opened
            self._folder_lock.take()
        self._wake, self._closing = threading.Event(), False
        self._listeners: List[Callable[[], None]] = []
        self._spool: Optional[Spool] = None
        self._store_lock = threading.Lock()  # of the spool
        self._lock = threading.Lock()  # of all below
        self._sequence = 0
        self._last_sequences: Dict[str, int] = {}  # model → its last event that may be sent
        self._progress = DeliveryProgress(sinks)
        self._notes: Dict[str, str] = {}
        self._pending = PendingEvents(folder, self._lock)
        for sink in sinks:
            self._progress.reset(sink, 0, self._pending.sequences())
        try:
            self._open()
        except (DiskError, OSError) as error:
            self.problem = f"The outbox in {folder} can't be opened: {_reason(error)}."
            log.error("%s", self.problem)  # noqa: TRY400 - the disk's fault, not ours
        self._sequence = max(self._sequence, self._pending.highest)
        if not self._sequence or self.problem or self.damage:  # above every number used before
            self._sequence = max(self._sequence, int(clock.wall() * 1e6))
        self._wake.set()
        self._thread = threading.Thread(target=self._run, name="outbox", daemon=True)

    @property
    def journal_problem(self) -> str:
        """Why a crash may lose results that aren't stored yet, a sentence; "": it loses none."""
        return self._pending.journal_problem

    def start(self) -> None:
        """Start to store."""
        self._thread.start()

    def offer(self, draft: EventDraft) -> None:
        """Take an event; returns at once and never raises."""
        with self._lock:
            self._sequence += 1
            self._pending.add(self._sequence, draft)
            self._progress.offered()
        if not self._wake.is_set():
            self._wake.set()

    def read(self, sink: str, model: str, after: int, limit: int) -> List[StoredEvent]:
        """Return the next events of `model` after sequence `after` for `sink`, in order.

        Raises DiskError when the disk can't be read; nothing is known then.
        """
        found: List[StoredEvent] = []
        with self._store_lock:
            while self._spool is not None and not found:
                rows = self._spool.read(sink, model, after, limit)
                if not rows:
                    break
                after = rows[-1].sequence
                with self._lock:
                    found = self._progress.undelivered(sink, rows)
        if self.problem and len(found) < limit:
            with self._lock:
                held = self._pending.entries(model, after)
                found += self._progress.undelivered(sink, held)
        return found[:limit]

    def mark_delivered(self, sink: str, sequences: Sequence[int]) -> None:
        """Record that `sink` is done with these events."""
        with self._lock:
            self._progress.mark_delivered(sink, sequences)

    def last_sequences(self) -> Dict[str, int]:
        """Return by model the sequence of the last event that may be sent."""
        with self._lock:
            return dict(self._last_sequences)

    def count(self, sink: str, model: str, after: int) -> int:
        """Return about how many events of `model` after `after` wait on disk for `sink`."""
        with self._store_lock:
            return self._spool.count(sink, model, after) if self._spool else 0

    def age_s(self, entry: StoredEvent) -> float:
        """Return how much time has passed since the event was made."""
        return self._clock.uptime_s() - entry.made

    def waiting(self, sink: str) -> int:
        """Return about how many events wait for `sink`."""
        with self._lock:
            return self._progress.waiting(sink)

    def set_note(self, name: str, text: str) -> None:
        """Store a text with the next commit."""
        with self._lock:
            self._notes[name] = text

    def get_note(self, name: str) -> str:
        """Return a text that an earlier run stored, or ""."""
        with self._store_lock, suppress(DiskError):
            return self._spool.notes().get(name, "") if self._spool else ""
        return ""

    def on_stored(self, listener: Callable[[], None]) -> None:
        """Call `listener` whenever further events may be sent; register before `start`."""
        self._listeners.append(listener)

    def close(self, within_s: float) -> None:
        """Store the rest; what can't be stored in time stays in the journal."""
        self._closing = True
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join(within_s)
        if self._thread.is_alive():
            log.warning("Storing results takes too long; the next start recovers them.")
            return
        if self._spool is not None:
            with suppress(DiskError):
                self._spool.close()
        self._pending.close(stored=not self.problem)
        self._folder_lock.release()

    def _run(self) -> None:
        while not self._closing:
            self._wake.wait(POLL_S)
            self._wake.clear()
            self._guarded_store()
            end = time.monotonic() + self._settings.commit_every_s
            while not self._closing and time.monotonic() < end:
                time.sleep(min(0.05, self._settings.commit_every_s))
        self._guarded_store()

    def _guarded_store(self) -> None:
        try:
            self._log_clock_change()
            self._store()
        except Exception:
            log.exception("Storing results failed; trying again.")

    def _log_clock_change(self) -> None:
        ahead_s = self._clock.wall() - self._clock.uptime_s()
        jump_s, self._wall_ahead_s = ahead_s - self._wall_ahead_s, ahead_s
        if abs(jump_s) >= CLOCK_WAS_SET_S:
            log.warning(
                "The clock was set by %+.0f s. Waiting results keep their age, and the times "
                "written into them.",
                jump_s,
            )

    def _store(self) -> None:
        """Commit what was offered and delivered; after a failure nothing has changed."""
        with self._lock:
            delivered = self._progress.unsaved()
            notes, self._notes = self._notes, {}
        entries, broken = self._pending.encoded(self._thing, self._clock.uptime_s())
        if broken:
            self._drop(Dropped(0, broken).missed_by(self._sinks), "can't be written as JSON")
        if entries:
            notes[LAST_SEQUENCE], notes[LAST_ID] = str(entries[-1].sequence), entries[-1].id
        takeovers = self.takeovers
        if entries or delivered or notes or self._spool is None:
            try:
                with self._store_lock:
                    self._commit(entries, delivered, notes)
            except (DiskError, OSError, InvalidConfiguration) as error:
                self._hold_in_memory(error, notes)
            else:
                self._stored(entries, delivered)
        if entries or takeovers != self.takeovers:
            with self._lock:
                self._last_sequences.update((entry.model, entry.sequence) for entry in entries)
            for listener in self._listeners:
                listener()

    def _commit(
        self, entries: List[StoredEvent], delivered: Dict[str, Set[int]], notes: Dict[str, str]
    ) -> None:
        spool = self._spool or self._open()
        try:
            spool.append(entries, delivered, notes)
            self._trim(spool)
        except DiskError as error:
            if is_damage(error):  # opened again the next time, which replaces the file
                self._spool = None
                with suppress(DiskError):
                    spool.close()
            raise

    def _trim(self, spool: Spool) -> None:
        now, limit_bytes = self._clock.uptime_s(), self._settings.limit_mib * MIB
        too_old = now - 3600 * self._settings.max_age_h
        for dropped, why in spool.trim(limit_bytes, too_old, now - FRESH_S):
            self._drop(dropped, why)

    def _drop(self, dropped: Dropped, why: str) -> None:
        with self._lock:
            self._progress.dropped(dropped.missed)
        self._on_dropped(dropped, why)

    def _stored(self, entries: List[StoredEvent], delivered: Dict[str, Set[int]]) -> None:
        if self.problem:
            self.problem = ""
            log.info("The outbox stores results again.")
        with self._lock:
            self._pending.remove({entry.sequence for entry in entries})
            self._progress.saved(delivered)
        if entries:
            self._pending.rewrite()

    def _hold_in_memory(self, error: Exception, notes: Dict[str, str]) -> None:
        """Go on from memory; log it once."""
        sentence = (
            f"The outbox can't store results in {self._folder}: {_reason(error)}. Results stay in "
            f"memory and are sent from there. {_advice(error)}"
        )
        if sentence != self.problem:
            log.error("%s", sentence)
        self.problem = sentence
        dropped = Dropped()
        with self._lock:
            self._notes = {**notes, **self._notes}
            gone = self._pending.remove(self._progress.delivered_everywhere())
            self._progress.saved(dict.fromkeys(self._sinks, gone))
            if self._pending.overflows:
                dropped = self._pending.drop_oldest()
        if dropped:
            self._drop(dropped.missed_by(self._sinks), "memory full while the disk fails")
        if dropped or gone or self.journal_problem:
            self._pending.rewrite()

    def _open(self) -> Spool:
        """Open the spool and recover what waits in it."""
        self._folder_lock.take()
        spool = Spool(self._folder, self._sinks, self._clock)
        try:
            notes = spool.notes()
            waiting = {sink: spool.waiting(sink) for sink in self._sinks}
        except DiskError:
            spool.close()
            raise
        self.damage = spool.salvaged or self.damage
        with self._lock:
            last = parse_int(notes.get(LAST_SEQUENCE, ""))
            if spool.salvaged:
                last += LOST  # numbers of rows that can't be read aren't used again
            else:
                self._pending.remove({n for n in self._pending.sequences() if n <= last})
            for sink, models in waiting.items():
                counts = [count for count, _ in models.values()]
                self._progress.reset(sink, sum(counts), self._pending.sequences())
                for model, (_, end) in models.items():
                    self._last_sequences[model] = max(end, self._last_sequences.get(model, 0))
            self._sequence = max(self._sequence, last, *self._last_sequences.values(), 0)
            self.takeovers += 1
        self._spool = spool
        return spool


def _reason(error: Exception) -> str:
    """Return what went wrong, for a sentence that names the folder itself."""
    return (error.strerror if isinstance(error, OSError) else "") or str(error)


def _advice(error: Exception) -> str:
    """Return what to do about it."""
    number = error.errno if isinstance(error, OSError) else None
    if number in (errno.EEXIST, errno.ENOTDIR, errno.ENOENT, errno.ELOOP, errno.ENAMETOOLONG):
        return "Set results.folder to a folder, or to a place where one can be made."
    if number in (errno.EACCES, errno.EPERM):
        return f"Let user {os.geteuid()} write there, or set results.folder to another folder."
    if number == errno.EROFS:
        return "Set results.folder to a disk that isn't mounted read-only."
    if number in (errno.ENOSPC, errno.EDQUOT):
        return "Free disk space."
    return f"Let user {os.geteuid()} write there, free disk space or repair the disk."
