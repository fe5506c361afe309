"""Queue → instances: who computes what, and in which thread.

On a quiet line the caller's own thread borrows an idle instance and computes, so that a frame waits
for no other thread. While all instances are busy frames gather; an instance that becomes free goes
to its own thread, which takes as many frames as the model allows until none waits. With a gathering
window (for engines that need full batches) an idle instance waits that long for more frames.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Callable, Generic, List, Optional, Protocol, Sequence

from edge_agent.errors import AgentUnavailable, WrongModelState
from edge_agent.runtime.batching.batch import BatchDurations, Item, Queue, Result, Work
from edge_agent.runtime.system import stalls

THREAD_NAME = "instance"


class Instance(Protocol[Work, Result]):
    """Computes batches on any thread, one at a time; owns its engine and buffers."""

    max_batch: int
    can_interrupt: bool  # whether `interrupt` ends a computation

    def compute(self, batch: List[Item[Work, Result]]) -> None:
        """Resolve every item, with an answer or an error of its own; must not raise."""

    def interrupt(self) -> None:
        """Make a computation on another thread end soon."""

    def close(self) -> None:
        """Free the engine."""


class Retired(Exception):
    """The batcher takes no more work; a newer one may be there in its place."""


@dataclass(frozen=True)
class BatchingOptions:
    """`queue_length` frames wait at most, holding `queue_bytes`; `gather_s`: see above."""

    queue_length: int = 256
    queue_bytes: int = 512 * 1024 * 1024
    gather_s: float = 0.0


@dataclass(frozen=True)
class QueueLoad:
    """The load since the last look: `busy` is the share of all instances' time, 0 to 1."""

    instances: int
    waiting: int
    waited: int
    busy: float


class _Worker(Generic[Work, Result]):
    """An instance, what it computes, and the batches handed to its thread.

    An empty batch makes the thread look into the queue, None ends it. Who `ends` takes no further
    batch.
    """

    def __init__(
        self, instance: Instance[Work, Result], work: Callable[[_Worker[Work, Result]], None]
    ) -> None:
        self.instance = instance
        self.thread = threading.Thread(target=work, args=(self,), name=THREAD_NAME, daemon=True)
        self.inbox: SimpleQueue[Optional[List[Item[Work, Result]]]] = SimpleQueue()
        self.batch: List[Item[Work, Result]] = []
        self.since = 0.0
        self.ends = False


class Batcher(Generic[Work, Result]):
    """Owns the queue, the instances and their threads, until `close`."""

    def __init__(
        self,
        instances: Sequence[Instance[Work, Result]],
        options: BatchingOptions,
        clock: Callable[[], float] = time.monotonic,
        stood_still_s: Callable[[float], float] = stalls.stood_still_s,
    ) -> None:
        self._options, self._stood_still_s = options, stood_still_s
        self._clock = clock
        self._lock = threading.Lock()
        self._filled = threading.Condition(self._lock)
        self._queue: Queue[Work, Result] = Queue(options.queue_length, options.queue_bytes)
        self._closing = False
        self._idle: List[_Worker[Work, Result]] = []
        self._busy: List[_Worker[Work, Result]] = []
        self._threads: List[threading.Thread] = []
        self._durations = BatchDurations()
        self._looked, self._waited, self._busy_s = clock(), 0, 0.0
        for instance in instances:
            self.add(instance)

    def run(self, item: Item[Work, Result]) -> Result:
        """Compute `item` and return its result, in this thread when an instance is idle.

        Raises Overloaded, DeadlineExceeded, AgentUnavailable, CancelledError when the caller left
        while the item waited, Retired when closing, and what the instance failed the item with.
        """
        worker = self._admit(item)
        if worker is not None:
            worker.instance.compute([item])
            batch = self._next(worker)
            if batch:
                worker.inbox.put(batch)
        elif not item.caller.on_cancel(item.future.cancel):
            item.future.cancel()
        return item.future.result()

    def add(self, instance: Instance[Work, Result]) -> None:
        """Take one more instance into service. Raises Retired when closing."""
        worker = _Worker(instance, self._work)
        with self._lock:
            if self._closing:
                raise Retired
            self._threads = [known for known in self._threads if known.is_alive()]
            self._threads.append(worker.thread)
            worker.thread.start()
            if len(self._queue):
                self._busy.append(worker)
                worker.inbox.put([])
            else:
                self._idle.append(worker)

    def remove(self) -> bool:
        """Free one of several: the one longest at a batch, after it (it may hang); else any."""
        with self._lock:
            if self._in_service() <= 1:
                return False
            busy = [worker for worker in self._busy if not worker.ends]
            computing = [worker for worker in busy if worker.batch]  # others look for one
            if self._idle and not computing:
                self._idle.pop(0).inbox.put(None)
            else:
                min(computing or busy, key=lambda worker: worker.since).ends = True
            return True

    def give_up_hung(self, limit_s: float) -> int:
        """Give up the instances that compute for more than `limit_s`; return how many.

        Their callers get AgentUnavailable. An engine that can't be interrupted keeps its thread.
        """
        with self._lock:
            now = self._clock()
            hung = [
                worker
                for worker in self._busy
                if worker.batch and now - worker.since - self._stood_still_s(worker.since) > limit_s
            ]
            for worker in hung:
                worker.ends = True
                self._busy.remove(worker)
                self._threads.remove(worker.thread)
            cut = [item for worker in hung for item in worker.batch]
        for item in cut:
            item.fail(
                AgentUnavailable(
                    f"The engine didn't answer for {limit_s:g} s and is being replaced; call again."
                )
            )
        for worker in hung:
            if worker.instance.can_interrupt:
                worker.instance.interrupt()
        return len(hung)

    @property
    def instances(self) -> int:
        """How many are in service."""
        with self._lock:
            return self._in_service()

    def load(self) -> QueueLoad:
        """Return the load since the last call of this."""
        with self._lock:
            now, instances = self._clock(), self._in_service()
            working_s = sum(now - max(w.since, self._looked) for w in self._busy if w.batch)
            span_s = max(1e-9, (now - self._looked) * max(1, instances))
            load = QueueLoad(
                instances, len(self._queue), self._waited, (self._busy_s + working_s) / span_s
            )
            self._looked, self._waited, self._busy_s = now, 0, 0.0
            return load

    def close(self, within_s: float) -> bool:
        """Refuse new work, finish what waits, free the instances.

        Returns False when that took longer than `within_s`; what still waits then is refused, and
        an instance still computing is freed when it ends.
        """
        end = time.monotonic() + within_s
        with self._lock:
            self._closing = True
            while self._idle:
                self._idle.pop().inbox.put(None)
            self._filled.notify_all()
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))
        with self._lock:
            cut = self._queue.take(self._clock(), len(self._queue))
        for item in cut:
            item.fail(WrongModelState("The model is STOPPING."))
        return not any(thread.is_alive() for thread in self._threads)

    def _admit(self, item: Item[Work, Result]) -> Optional[_Worker[Work, Result]]:
        """Return an idle worker to compute `item` with, None when the item was queued."""
        with self._lock:
            if self._closing:
                raise Retired
            item.check(item.arrived, self._durations.least_s(item.arrived))
            worker = self._idle.pop() if self._idle else None
            if worker is not None and self._may_borrow(worker):
                self._begin(worker, [item])
                return worker
            try:
                self._queue.offer(item, self._durations.frame_s / max(1, self._in_service()))
            except Exception:
                if worker is not None:
                    self._idle.append(worker)
                raise
            if worker is not None:
                self._busy.append(worker)
                worker.inbox.put([])
            elif self._options.gather_s:
                self._filled.notify_all()
            self._waited += worker is None
            return None

    def _may_borrow(self, worker: _Worker[Work, Result]) -> bool:
        """Only an engine that can be interrupted may run in a caller's thread.

        The others would block the caller for ever when they hang. Nor may one that is to gather.
        """
        return worker.instance.can_interrupt and not self._gathers(worker)

    def _gathers(self, worker: _Worker[Work, Result]) -> bool:
        return self._options.gather_s > 0.0 and worker.instance.max_batch > 1

    def _begin(self, worker: _Worker[Work, Result], batch: List[Item[Work, Result]]) -> None:
        worker.batch, worker.since = batch, self._clock()
        for item in batch:
            item.times.queue = worker.since - item.arrived
        if worker not in self._busy:
            self._busy.append(worker)

    def _next(self, worker: _Worker[Work, Result]) -> List[Item[Work, Result]]:
        """Return what `worker` computes next; when nothing waits it is idle, or ends."""
        with self._lock:
            now = self._clock()
            if worker.batch:
                took_s = now - worker.since
                if took_s < stalls.LATE_S or not self._stood_still_s(worker.since):
                    self._durations.add(now, took_s, len(worker.batch))
                self._busy_s += now - max(worker.since, self._looked)
                worker.batch = []
            if worker.ends:
                if worker in self._busy:  # else it was given up
                    self._busy.remove(worker)
                worker.inbox.put(None)
                return []
            if self._gathers(worker):
                self._gather(worker)
            batch: List[Item[Work, Result]] = []
            if len(self._queue):
                now = self._clock()
                batch = self._queue.take(
                    now, worker.instance.max_batch, self._durations.least_s(now)
                )
            if batch:
                self._begin(worker, batch)
                return batch
            self._busy.remove(worker)
            if self._closing:
                worker.inbox.put(None)
            else:
                self._idle.append(worker)
            return []

    def _gather(self, worker: _Worker[Work, Result]) -> None:
        """Wait until the batch is full or its first frame has waited long enough."""
        while 0 < len(self._queue) < worker.instance.max_batch and not self._closing:
            rest_s = self._queue.oldest() + self._options.gather_s - self._clock()
            if rest_s <= 0.0:
                return
            self._filled.wait(rest_s)

    def _in_service(self) -> int:
        return len(self._idle) + sum(not worker.ends for worker in self._busy)

    def _work(self, worker: _Worker[Work, Result]) -> None:
        while True:
            batch = worker.inbox.get()
            if batch is None:
                break
            batch = batch or self._next(worker)
            while batch:
                worker.instance.compute(batch)
                batch = self._next(worker)
        worker.instance.close()
