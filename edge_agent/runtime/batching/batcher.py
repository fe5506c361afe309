"""Queue → instances: each instance is a thread that takes what waits and computes it.

An idle instance takes an item the moment it comes; while all are busy, items gather and the next
free instance takes as many as its model allows.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future
from typing import Any, Callable, List, Optional, Protocol, Sequence

from edge_agent.errors import WrongModelState
from edge_agent.runtime.batching.batch import Item, Queue

THREAD_NAME = "instance"
_STOPPING = "The model is STOPPING."


class Instance(Protocol):
    """Computes batches; owns its engine and buffers."""

    max_batch: int

    def compute(self, batch: List[Item]) -> None:
        """Resolve the future of every item; must not raise."""

    def close(self) -> None:
        """Free the engine."""


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
        self._changed = threading.Condition()
        self._closing = False
        self._threads = [
            threading.Thread(target=self._serve, args=(instance,), name=THREAD_NAME, daemon=True)
            for instance in instances
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, work: Any, deadline: Optional[float] = None) -> Future[Any]:
        """Queue `work` and return its future. Raises Overloaded; WrongModelState when closing."""
        item = Item(work, self._clock(), deadline)
        with self._changed:
            if self._closing:
                raise WrongModelState(_STOPPING)
            self._queue.offer(item)
            self._changed.notify()
        return item.future

    def close(self, within_s: float) -> bool:
        """Refuse new work, finish what waits, free the instances.

        Returns False when that took longer than `within_s`; what still waits then is cancelled.
        """
        end = time.monotonic() + within_s
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))
        if not any(thread.is_alive() for thread in self._threads):
            return True
        with self._changed:
            for item in self._queue.take(self._clock(), len(self._queue)):
                item.future.set_exception(WrongModelState(_STOPPING))
        return False

    def _serve(self, instance: Instance) -> None:
        while True:
            with self._changed:
                while not len(self._queue) and not self._closing:
                    self._changed.wait()
                batch = self._queue.take(self._clock(), instance.max_batch)
                if not batch and self._closing:
                    break
            if batch:
                instance.compute(batch)
            del batch  # while this thread waits it must not hold the last caller's frame
        instance.close()
