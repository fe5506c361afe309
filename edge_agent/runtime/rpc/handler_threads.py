"""The threads that answer streams and calls without a frame: as many as wait, the last used first.

grpc's own server gives every call to an executor. `concurrent.futures.ThreadPoolExecutor` has a
fixed size, and before CPython 3.9 fills it up before it uses a thread again; here a burst adds
threads, which end when they are not needed, and a lone caller always gets the same, warm one.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from concurrent.futures import Executor, Future
from queue import Empty, SimpleQueue
from typing import Callable, Deque, List, TypeVar

THREAD_NAME = "call"
KEEP_IDLE_S = 10.0

Job = Callable[[], None]
T = TypeVar("T")

_current = threading.local()


def waited_s() -> float:
    """Return how long ago gRPC handed over the call that runs on this thread, in seconds."""
    return time.monotonic() - float(_current.accepted)


def accepted_at(moment_s: float) -> None:
    """Note when gRPC handed over the call that runs on this thread, on the monotonic clock."""
    _current.accepted = moment_s


class HandlerThreads(Executor):
    """An executor of at most `limit` daemon threads; what comes beyond waits for one of them."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._count = 0
        self._idle: List[SimpleQueue[Job]] = []
        self._backlog: Deque[Job] = deque()

    def submit(self, fn: Callable[..., T], *args: object, **kwargs: object) -> Future[T]:  # type: ignore[override]
        """Run `fn` on a thread of its own."""
        future: Future[T] = Future()
        accepted = time.monotonic()

        def job() -> None:
            accepted_at(accepted)
            try:
                future.set_result(fn(*args, **kwargs))
            except BaseException as error:
                future.set_exception(error)

        with self._lock:
            if self._idle:
                self._idle.pop().put(job)
            elif self._count == self._limit:
                self._backlog.append(job)
            else:
                self._count += 1
                threading.Thread(
                    target=self._serve, args=(job,), name=THREAD_NAME, daemon=True
                ).start()
        return future

    def _serve(self, job: Job) -> None:
        inbox: SimpleQueue[Job] = SimpleQueue()
        while True:
            job()
            del job  # while this thread waits it must not hold the last caller's frame
            with self._lock:
                if self._backlog:
                    job = self._backlog.popleft()
                    continue
                self._idle.append(inbox)
            try:
                job = inbox.get(timeout=KEEP_IDLE_S)
            except Empty:
                with self._lock:
                    if inbox in self._idle:
                        self._idle.remove(inbox)
                        self._count -= 1
                        return
                job = inbox.get()  # it came in the last moment
