"""Delivers the outbox's events to one sink: in rounds, in order per model, until they arrive.

A round sends what the sink's window allows and waits for all of it. When nothing arrives, the next
one waits for a growing backoff. A message that fails again and again while others arrive goes to
the dead-letter file, and the rest goes on.
"""

from __future__ import annotations

import json
import logging
import random
import threading
import time
from concurrent.futures import wait
from typing import Callable, Dict, List, Optional

from edge_agent.config import OutboxSettings
from edge_agent.runtime.results import event
from edge_agent.runtime.results.delivery_cursor import (
    ANSWER_WITHIN_S,
    FRESH_S,
    DeliveryCursor,
    DrainRate,
    MessageInFlight,
)
from edge_agent.runtime.results.delivery_outage import DeliveryOutage
from edge_agent.runtime.results.outbox import Outbox
from edge_agent.runtime.results.sink import (
    Message,
    MessageRefused,
    MessageRejected,
    NotAnswered,
    Sink,
    SinkBusy,
    SinkUnavailable,
)
from edge_agent.runtime.results.spool.database import DiskError, StoredEvent

log = logging.getLogger(__name__)

FIRST_BACKOFF_S, LONGEST_BACKOFF_S = 0.25, 60.0
UNREADABLE_BACKOFF_S = 1.0  # after an error of the outbox's disk
ARRIVED = "arrived"  # the note with each model's highest sequence that has arrived
STALLED_ROUNDS = 4  # failed in a row; then an alarm event shows whether anything can arrive


class Delivery:
    """Owns the thread and the cursors of one sink; until `close`."""

    def __init__(
        self,
        sink: Sink,
        outbox: Outbox,
        settings: OutboxSettings,
        on_dead: Callable[[str, StoredEvent, str], bool],
        on_stalled: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Do nothing before `start`.

        `on_dead(sink, entry, reason)` stores a message that is given up, False when it can't;
        `on_stalled(sink)` may offer an event of its own, which shows whether anything arrives.
        """
        self._sink, self._outbox, self._tries = sink, outbox, settings.tries
        self._on_dead, self._on_stalled = on_dead, on_stalled
        self._clock = clock
        self._cursors: Dict[str, DeliveryCursor] = {}
        self._rate = DrainRate(settings.drain_per_s, clock())
        self._backlog_from = FRESH_S * settings.drain_per_s
        self._fresh_s = FRESH_S + settings.commit_every_s
        self._ready, self._closing, self._wake = False, False, threading.Event()
        self._failed_rounds, self._backoff_until = 0, 0.0  # failed in a row
        self._random = random.Random()
        self._takeovers = 0
        self._arrived: Dict[str, int] = _sequences(outbox.get_note(f"{ARRIVED} {sink.name}"))
        self.delivered = 0  # since the start
        self._outage = DeliveryOutage(sink.name, clock)
        self._thread = threading.Thread(target=self._run, name=f"to-{sink.name}", daemon=True)
        outbox.on_stored(self._wake.set)

    @property
    def name(self) -> str:
        """The sink's name."""
        return self._sink.name

    @property
    def problem(self) -> str:
        """Why messages wait, a sentence; "": they don't."""
        return self._outage.reason or self._sink.problem

    def start(self) -> None:
        """Start to connect and to deliver."""
        self._sink.start(self._on_ready)
        self._thread.start()

    def close(self, within_s: float) -> None:
        """End after the current round, and disconnect."""
        self._closing = True
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join(within_s / 2)
        self._sink.stop(within_s / 2)

    def _on_ready(self) -> None:
        self._ready, self._failed_rounds, self._backoff_until = True, 0, 0.0
        self._wake.set()

    def _run(self) -> None:
        while not self._closing:
            self._wake.clear()
            wait_s: Optional[float] = None
            if self._ready:
                wait_s = self._backoff_until - self._clock()
                if wait_s <= 0.0:
                    wait_s = self._guarded_round()
            if wait_s is None or wait_s > 0.0:
                self._wake.wait(wait_s)

    def _guarded_round(self) -> Optional[float]:
        try:
            return self._round()
        except DiskError:
            return UNREADABLE_BACKOFF_S  # the outbox logs what is wrong, and repairs it
        except Exception:
            log.exception("Delivery to %s failed; trying again.", self.name)
            return LONGEST_BACKOFF_S

    def _round(self) -> Optional[float]:
        """Send what may be sent now; returns how long to wait then, None: until there is more."""
        takeovers = self._outbox.takeovers
        for model, end in self._outbox.last_sequences().items():
            cursor = self._cursors.setdefault(
                model, DeliveryCursor(arrived=self._arrived.get(model, 0))
            )
            cursor.end = max(cursor.end, end)
            if takeovers != self._takeovers:
                cursor.rewind()
        self._takeovers = takeovers
        now = self._clock()
        models = self._models_to_serve(now)
        for cursor in self._cursors.values():
            cursor.sent_live = 0
        sent = self._send_live(models, self._sink.window)
        free = min(self._sink.window - len(sent), self._rate.allows(now))
        sent += self._send_backlog(models, free)
        if not sent:
            return self._until_next(now)
        wait([item.future for item in sent if item.future is not None], ANSWER_WITHIN_S)
        self._handle_answers(sent)
        return 0.0

    def _models_to_serve(self, now: float) -> List[str]:
        """Return whose messages are sent in this round.

        After a failed round one model is sent alone, each in turn: the fault may be in a message
        of another.
        """
        models = [
            m for m, cursor in self._cursors.items() if cursor.has_more and cursor.not_before <= now
        ]
        if self._failed_rounds % 2 and len(models) > 1:
            return [models[self._failed_rounds // 2 % len(models)]]
        return models

    def _send_live(self, models: List[str], free: int) -> List[MessageInFlight]:
        sent: List[MessageInFlight] = []
        for index, model in enumerate(models):
            cursor = self._cursors[model]
            share = max(1, (free - len(sent)) // (len(models) - index))
            limit = min(share, self._sink.window_per_model, free - len(sent))
            entries = self._outbox.read(self.name, model, cursor.live, limit) if limit > 0 else []
            if entries and self._has_backlog(model, cursor, entries[0]):
                if cursor.backlog_at is None:
                    log.info(
                        "Results of %s pile up; new ones are sent to %s first.", model, self.name
                    )
                cursor.split_off_backlog()
            elif entries:
                sent += [self._send(cursor, entry, backlog=False) for entry in entries]
            elif limit > 0:
                cursor.live = cursor.end
        return sent

    def _send_backlog(self, models: List[str], free: int) -> List[MessageInFlight]:
        sent: List[MessageInFlight] = []
        for model in models:
            cursor = self._cursors[model]
            limit = min(self._sink.window_per_model, free - len(sent))
            if cursor.backlog_at is None or limit <= 0:
                continue
            entries = self._outbox.read(self.name, model, cursor.backlog_at, limit)
            entries = [entry for entry in entries if entry.sequence <= cursor.split]
            if not entries:
                log.info("All waiting results of %s are delivered to %s.", model, self.name)
                cursor.end_backlog()
            sent += [self._send(cursor, entry, backlog=True) for entry in entries]
        self._rate.take(len(sent))
        return sent

    def _has_backlog(self, model: str, cursor: DeliveryCursor, head: StoredEvent) -> bool:
        """Whether more waits than can be sent while results are fresh."""
        if self._outbox.age_s(head) <= self._fresh_s:
            return False
        return self._outbox.count(self.name, model, cursor.live) > self._backlog_from

    def _send(self, cursor: DeliveryCursor, entry: StoredEvent, backlog: bool) -> MessageInFlight:
        overtaken = entry.sequence < max(cursor.arrived, cursor.sent_live if backlog else 0)
        if not backlog:
            cursor.sent_live = entry.sequence
        body = event.late(entry.body) if overtaken else entry.body
        message = Message(entry.id, entry.model, entry.kind, entry.verdict, body)
        try:
            return MessageInFlight(cursor, entry, backlog, self._sink.send(message))
        except Exception as error:
            return MessageInFlight(cursor, entry, backlog, None, error)

    def _handle_answers(self, sent: List[MessageInFlight]) -> None:
        arrived = [item for item in sent if item.failure() is None]
        self._note_arrivals(arrived)
        refused = all(isinstance(item.failure(), MessageRefused) for item in sent)
        if arrived:
            self._failed_rounds = 0
        elif not refused:
            self._failed_rounds += 1
            self._backoff_until = self._clock() + self._backoff_s(self._failed_rounds)
            if any(isinstance(item.failure(), NotAnswered) for item in sent):
                self._sink.reset()
        failed: List[int] = []  # cursors, by identity: only the first failure of each counts
        for item in sent:
            failure = item.failure()
            if id(item.cursor) not in failed and failure is None:
                item.arrived()
            elif id(item.cursor) not in failed and failure is not None:
                failed.append(id(item.cursor))
                self._handle_failure(item, failure, bool(arrived))
        if arrived:
            for cursor in self._cursors.values():
                cursor.failures.others_passed = True
        if not any(cursor.stuck for cursor in self._cursors.values()):
            self._outage.arrived(self.delivered, self._outbox.waiting(self.name))

    def _note_arrivals(self, arrived: List[MessageInFlight]) -> None:
        self._outbox.mark_delivered(self.name, [item.entry.sequence for item in arrived])
        self.delivered += len(arrived)
        for item in arrived:
            item.cursor.arrived = max(item.cursor.arrived, item.entry.sequence)
        if arrived:
            numbers = {
                model: cursor.arrived for model, cursor in self._cursors.items() if cursor.arrived
            }
            self._outbox.set_note(
                f"{ARRIVED} {self.name}", json.dumps({**self._arrived, **numbers})
            )

    def _handle_failure(
        self, item: MessageInFlight, failure: BaseException, others_pass: bool
    ) -> None:
        """Leave the cursor before the message, or give the message up."""
        item.cursor.stuck = True
        sentence = str(failure) or type(failure).__name__
        is_busy = isinstance(failure, SinkBusy)
        if self._outage.reason or not (is_busy and others_pass):  # else a limit that passes
            is_logged = type(failure) is SinkUnavailable and bool(self._sink.problem)
            self._outage.failed(sentence, self.delivered, is_logged)
        if isinstance(failure, SinkUnavailable) and item.future is None:
            return  # it wasn't tried
        if is_busy or isinstance(failure, MessageRefused):  # not the message's fault
            rest = 2 if is_busy else 8
            item.cursor.not_before = self._clock() + self._backoff_s(rest)
            return
        certain = isinstance(failure, MessageRejected)
        tries = item.cursor.failures.add(item.entry.sequence, certain)
        if tries >= self._tries:
            if self._on_dead(self.name, item.entry, sentence):
                self._outbox.mark_delivered(self.name, [item.entry.sequence])
                item.arrived()
        elif others_pass:
            item.cursor.not_before = self._clock() + self._backoff_s(2 + tries)
        elif self._failed_rounds >= STALLED_ROUNDS and not item.cursor.failures.alarm_raised:
            item.cursor.failures.alarm_raised = True
            if all(cursor.stuck for cursor in self._cursors.values() if cursor.has_more):
                self._on_stalled(self.name)

    def _until_next(self, now: float) -> Optional[float]:
        """Return how long until a backoff or the drain rate allows the next message."""
        waiting = [cursor for cursor in self._cursors.values() if cursor.has_more]
        times = [cursor.not_before - now for cursor in waiting if cursor.not_before > now]
        if any(cursor.backlog_at is not None and cursor.not_before <= now for cursor in waiting):
            times.append(self._rate.next_in_s())
        if self._failed_rounds % 2 and waiting:
            self._failed_rounds += 1  # the turn of all models
            times.append(0.0)
        return min(times, default=None)

    def _backoff_s(self, times: int) -> float:
        """Exponential, with jitter: the agents of a plant don't retry all at once."""
        longest = min(LONGEST_BACKOFF_S, FIRST_BACKOFF_S * 2.0 ** min(times, 16))
        return longest * self._random.uniform(0.5, 1.0)


def _sequences(text: str) -> Dict[str, int]:
    try:
        return {str(model): int(number) for model, number in json.loads(text or "{}").items()}
    except (ValueError, TypeError, AttributeError):
        return {}  # then a late result isn't marked
