"""Queue → instances: who computes what, and in which thread.

On a quiet line the caller's own thread borrows an idle instance and computes, so that a frame waits
for no other thread. While all instances are busy frames gather; an instance that becomes free goes
to its own thread, which takes as many frames as the model allows until none waits.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, Callable, List, Optional, Protocol, Sequence

from edge_agent.errors import WrongModelState
from edge_agent.runtime.batching.batch import Item, Queue
from edge_agent.types import Caller

THREAD_NAME = "instance"


class Instance(Protocol):
    """Computes batches on any thread, one at a time; owns its engine and buffers."""

    max_batch: int

    def compute(self, batch: List[Item]) -> None:
        """Resolve the future of every item; must not raise."""

    def close(self) -> None:
        """Free the engine."""


class Retired(Exception):
    """The batcher takes no more work; a newer one may be there in its place."""


class _Worker:
    """An instance, and the batches handed to its thread; None ends it."""

    def __init__(self, instance: Instance) -> None:
        self.instance = instance
        self.inbox: SimpleQueue[Optional[List[Item]]] = SimpleQueue()


class Batcher:
    """Owns the queue, the instances and their threads, until `close`."""

    def __init__(
        self,
        instances: Sequence[Instance],
        capacity: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._queue = Queue(capacity)
        self._clock = clock
        self._lock = threading.Lock()
        self._closing = False
        self._idle = [_Worker(instance) for instance in instances]
        self._threads = [
            threading.Thread(target=self._work, args=(worker,), name=THREAD_NAME, daemon=True)
            for worker in self._idle
        ]
        for thread in self._threads:
            thread.start()

    def run(self, work: Any, caller: Caller) -> Any:
        """Compute `work` and return its result, in this thread when an instance is idle.

        Raises Overloaded, DeadlineExceeded, CancelledError when the caller went while `work`
        waited, Retired when closing, and whatever the instance gave the item.
        """
        item = Item(work, self._clock(), caller)
        worker = self._admit(item)
        if worker is not None:
            worker.instance.compute([item])
            batch = self._next(worker)
            if batch:
                worker.inbox.put(batch)
        elif not caller.when_gone(item.future.cancel):
            item.future.cancel()
        return item.future.result()

    def submit(self, work: Any, caller: Caller) -> Future[Any]:
        """Queue `work` and return its future. Raises Overloaded, DeadlineExceeded, Retired."""
        item = Item(work, self._clock(), caller)
        worker = self._admit(item)
        if worker is not None:
            item.future.set_running_or_notify_cancel()
            worker.inbox.put([item])
        return item.future

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
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))
        with self._lock:
            cut = self._queue.take(self._clock(), len(self._queue))
        for item in cut:
            item.future.set_exception(WrongModelState("The model is STOPPING."))
        return not any(thread.is_alive() for thread in self._threads)

    def _admit(self, item: Item) -> Optional[_Worker]:
        """Return an idle worker for `item`, None when it was queued."""
        with self._lock:
            if self._closing:
                raise Retired
            item.check(item.arrived)
            if self._idle:
                return self._idle.pop()
            self._queue.offer(item)
            return None

    def _next(self, worker: _Worker) -> List[Item]:
        """Return what `worker` computes next; when nothing waits it is idle, or ends."""
        with self._lock:
            batch = self._queue.take(self._clock(), worker.instance.max_batch)
            if not batch:
                if self._closing:
                    worker.inbox.put(None)
                else:
                    self._idle.append(worker)
            return batch

    def _work(self, worker: _Worker) -> None:
        while True:
            batch = worker.inbox.get()
            if batch is None:
                break
            while batch:
                worker.instance.compute(batch)
                batch = self._next(worker)
        worker.instance.close()
