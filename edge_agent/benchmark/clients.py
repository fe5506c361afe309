"""Cameras as jobs of `jobs`: ones that wait for answers, and one that floods."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Callable, Dict, List, Mapping, Optional

import numpy as np

from edge_agent.benchmark.kserve import TRANSPORT, KServeCamera
from edge_agent.benchmark.loops import CallResult, ClosedLoop, LoadSchedule, OpenLoop, Tally, drive
from edge_agent.benchmark.served import Camera

IN_FLIGHT = 4  # frames of one client at a time, in the open loop
DRAIN_WITHIN_S = 20.0


class ClientsJob:
    """`count` cameras, each with its own connection and shared memory."""

    def __init__(
        self,
        address: str,
        model: str,
        frame: str,
        count: int,
        compare: Optional[str] = None,
        package: Optional[str] = None,
    ) -> None:
        self._address, self._model, self._count = address, model, count
        self._compare, self._package = compare, package
        self._image = np.load(frame)
        self._calls: List[Dict[str, Callable[[], CallResult]]] = []  # of each client, by transport

    def __enter__(self) -> ClientsJob:
        with ExitStack() as stack:
            for _ in range(self._count):
                calls = self._open(stack)
                for call in calls.values():
                    call().check()
                self._calls.append(calls)
            self._pool = stack.enter_context(ThreadPoolExecutor(self._count * IN_FLIGHT))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _open(self, stack: ExitStack) -> Dict[str, Callable[[], CallResult]]:
        camera = stack.enter_context(Camera(self._address, self._model, self._image))
        calls = {"shared_memory": camera.by_shared_memory, "bytes": camera.by_bytes}
        if self._compare and self._package:
            other = KServeCamera(self._compare, self._package, self._image)
            calls[TRANSPORT] = stack.enter_context(other).by_tensor
        return calls

    def turn(
        self,
        transport: str,
        begin_s: float,
        end_s: float,
        offsets_s: List[float],
        period_s: Optional[float],
    ) -> Mapping[str, object]:
        """Send from `begin_s` to `end_s` (monotonic) with one client for each of `offsets_s`.

        period_s: of each client in the open loop, its first frame due at its offset; None: closed
        loop. Returns a Tally's fields.
        """
        used_s = time.process_time()
        running = []
        for client, (calls, offset_s) in enumerate(zip(self._calls, offsets_s)):
            call = calls[transport]
            schedule: LoadSchedule = ClosedLoop(begin_s, end_s, time.monotonic)
            if period_s is not None:
                schedule = OpenLoop(begin_s + offset_s, end_s, period_s)
            for _ in range(1 if period_s is None else IN_FLIGHT):
                running.append((client, self._pool.submit(_drive, schedule, end_s, call)))
        tally = Tally()
        for client, future in running:
            part = future.result()
            part.frames_of = {str(client): len(part.latencies_ms)}
            tally.merge(part)
        tally.cpu_s = time.process_time() - used_s
        return vars(tally)


class FloodJob:
    """One camera that sends without waiting for answers, its frames in shared memory."""

    def __init__(self, address: str, model: str, frame: str) -> None:
        self._camera = Camera(address, model, np.load(frame))
        self._changed = threading.Condition()

    def __enter__(self) -> FloodJob:
        with ExitStack() as stack:
            stack.enter_context(self._camera)
            self._camera.by_shared_memory()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
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
        call.add_done_callback(lambda done: self._record(done.code().name, sent_s))

    def _record(self, status: str, sent_s: float) -> None:
        with self._changed:
            self._times_ms.setdefault(status, []).append(1000 * (time.monotonic() - sent_s))
            self._open -= 1
            self._changed.notify_all()


def _drive(schedule: LoadSchedule, end_s: float, call: Callable[[], CallResult]) -> Tally:
    return drive(schedule, end_s, call, time.monotonic, time.sleep)
