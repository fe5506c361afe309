"""An outbox, events for it, and a sink that the test commands."""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Tuple

from edge_agent.config import OutboxSettings
from edge_agent.runtime.results import event
from edge_agent.runtime.results.delivery import Delivery
from edge_agent.runtime.results.event import EventDraft
from edge_agent.runtime.results.ids import Ids
from edge_agent.runtime.results.outbox import Outbox
from edge_agent.runtime.results.sink import Message, Sink
from edge_agent.runtime.results.spool.database import Dropped, StoredEvent
from edge_agent.runtime.system.machine_clock import THIS_MACHINE, MachineClock
from edge_agent.types import Prediction, StageTimes

SINK = "test"
IDS = Ids(time.time)


def make(model: str = "bolts", anomalous: bool = False, size: int = 500) -> EventDraft:
    """A result of about `size` bytes, 500 or more."""
    prediction = Prediction(anomalous, 0.9, 0.9, 0.5, model_version="x" * (size - 490))
    facts = event.verdict(prediction, StageTimes(), "", time.time(), "")
    return EventDraft(IDS.new(), "result", model, time.time(), facts)


class Drops:
    """What an outbox says it dropped."""

    def __init__(self) -> None:
        self.total, self.reasons = Dropped(), set()

    def __call__(self, dropped: Dropped, why: str) -> None:
        self.total += dropped
        self.reasons.add(why)


def open_outbox(
    folder: Path,
    drops: Optional[Callable[[Dropped, str], None]] = None,
    sinks: Tuple[str, ...] = (SINK,),
    clock: MachineClock = THIS_MACHINE,
    **settings: Any,
) -> Outbox:
    """A started outbox that commits fast."""
    options = OutboxSettings(**{"commit_every_s": 0.02, **settings})
    outbox = Outbox(options, folder, "thing", sinks, drops or Drops(), clock)
    outbox.start()
    return outbox


class CommandedSink:
    """A sink of the test's own: `behave` says what becomes of a message; None: it arrives."""

    name = SINK

    def __init__(self, behave: Callable[[Message], Optional[Exception]], window: int = 20) -> None:
        self.window = self.window_per_model = window
        self.behave = behave
        self.resets = 0
        self.tried: List[Message] = []
        self.arrived: List[Message] = []
        self.on_ready: Callable[[], None] = lambda: None
        self.changed = threading.Condition()

    def start(self, on_ready: Callable[[], None]) -> None:
        self.on_ready = on_ready
        on_ready()

    def send(self, message: Message) -> Future[None]:
        future: Future[None] = Future()
        failure = self.behave(message)
        with self.changed:
            self.tried.append(message)
            if failure is None:
                self.arrived.append(message)
            self.changed.notify_all()
        if failure is None:
            future.set_result(None)
        else:
            future.set_exception(failure)
        return future

    problem = ""

    def reset(self) -> None:
        self.resets += 1

    def stop(self, within_s: float) -> None:
        pass

    def wait_for(self, done: Callable[[], bool], within_s: float = 60.0) -> None:
        with self.changed:
            assert self.changed.wait_for(done, within_s), f"{len(self.arrived)} arrived"

    def bodies(self) -> List[Dict[str, Any]]:
        with self.changed:
            return [json.loads(message.body) for message in self.arrived]

    def ids(self) -> List[str]:
        with self.changed:
            return [message.id for message in self.arrived]


class Delivering:
    """An outbox and its delivery to a sink, ended together."""

    def __init__(self, folder: Path, sink: Sink, outbox: Optional[Outbox] = None, **settings: Any):
        self.dead: List[Tuple[StoredEvent, str]] = []
        self.stalls = 0
        self.sink = sink
        self.outbox = outbox or open_outbox(folder, sinks=(sink.name,), **settings)
        options = OutboxSettings(**{"commit_every_s": 0.02, **settings})
        self.delivery = Delivery(sink, self.outbox, options, self._dies, self._stalls)

    def _dies(self, _sink: str, entry: StoredEvent, reason: str) -> bool:
        self.dead.append((entry, reason))
        return True

    def _stalls(self, _sink: str) -> None:
        self.stalls += 1
        self.outbox.offer(make("", anomalous=True))

    def __enter__(self) -> Delivering:
        self.delivery.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.delivery.close(5.0)
        self.outbox.close(5.0)


def wait_until(done: Callable[[], bool], within_s: float = 60.0) -> None:
    end = time.monotonic() + within_s
    while not done():
        assert time.monotonic() < end, "it doesn't come true"
        time.sleep(0.01)
