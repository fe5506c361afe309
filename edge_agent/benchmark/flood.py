"""A camera that sends without waiting for answers: a job of `jobs`."""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack
from typing import Any, Dict, List, Optional

import numpy as np

from edge_agent.benchmark.served import Camera

DRAIN_WITHIN_S = 20.0


class FloodJob:
    """One camera, its frames in shared memory."""

    def __init__(self, address: str, model: str, frame: str) -> None:
        self._camera = Camera(address, model, np.load(frame))
        self._changed = threading.Condition()

    def __enter__(self) -> FloodJob:
        with ExitStack() as stack:
            stack.enter_context(self._camera)
            self._camera.by_shared_memory()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: Any) -> None:
        self._stack.close()

    def turn(
        self, begin_s: float, end_s: float, in_flight: int = 0, period_s: Optional[float] = None
    ) -> Dict[str, Dict[str, List[float]]]:
        """Keep `in_flight` calls in flight, or send one every `period_s`, until `end_s`.

        Returns the times of the calls in ms by the name of their status, when all are answered.
        """
        self._times_ms: Dict[str, List[float]] = {}
        self._open = 0
        time.sleep(max(0.0, begin_s - time.monotonic()))
        due_s = begin_s
        while time.monotonic() < end_s:
            if period_s is None:
                with self._changed:
                    self._changed.wait_for(lambda: self._open < in_flight, end_s - time.monotonic())
                    if self._open >= in_flight:
                        break
            else:
                time.sleep(max(0.0, due_s - time.monotonic()))
                due_s += period_s
            self._send()
        with self._changed:
            self._changed.wait_for(lambda: not self._open, DRAIN_WITHIN_S)
        return {"times_ms": self._times_ms}

    def _send(self) -> None:
        with self._changed:
            self._open += 1
        sent_s = time.monotonic()
        call = self._camera.send()
        call.add_done_callback(lambda done: self._note(done.code().name, sent_s))

    def _note(self, status: str, sent_s: float) -> None:
        with self._changed:
            self._times_ms.setdefault(status, []).append(1000 * (time.monotonic() - sent_s))
            self._open -= 1
            self._changed.notify_all()
