"""Clients of the agent in a process of their own: a job of `jobs`."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any, Callable, Dict, List, Optional

import numpy as np

from edge_agent.benchmark.kserve_camera import TRANSPORT, KserveCamera
from edge_agent.benchmark.loops import Answer, ClosedPace, OpenPace, Pace, Tally, drive
from edge_agent.benchmark.served import Camera

IN_FLIGHT = 4  # frames of one client at a time, in the open loop


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
        self._calls: List[Dict[str, Callable[[], Answer]]] = []  # of each client, by transport

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

    def __exit__(self, *_: Any) -> None:
        self._stack.close()

    def _open(self, stack: ExitStack) -> Dict[str, Callable[[], Answer]]:
        camera = stack.enter_context(Camera(self._address, self._model, self._image))
        calls = {"shared_memory": camera.by_shared_memory, "bytes": camera.by_bytes}
        if self._compare and self._package:
            other = KserveCamera(self._compare, self._package, self._image)
            calls[TRANSPORT] = stack.enter_context(other).by_tensor
        return calls

    def turn(
        self,
        transport: str,
        begin_s: float,
        end_s: float,
        offsets_s: List[float],
        period_s: Optional[float],
    ) -> Dict[str, Any]:
        """Send from `begin_s` to `end_s` (monotonic) with one client for each of `offsets_s`.

        period_s: of each client in the open loop, its first frame due at its offset; None: closed
        loop. Returns a Tally's fields.
        """
        used_s = time.process_time()
        running = []
        for client, (calls, offset_s) in enumerate(zip(self._calls, offsets_s)):
            call = calls[transport]
            pace: Pace = ClosedPace(begin_s, end_s, time.monotonic)
            if period_s is not None:
                pace = OpenPace(begin_s + offset_s, end_s, period_s)
            for _ in range(1 if period_s is None else IN_FLIGHT):
                running.append((client, self._pool.submit(_drive, pace, end_s, call)))
        tally = Tally()
        for client, future in running:
            part = future.result()
            part.frames_of = {str(client): len(part.latencies_ms)}
            tally.merge(part)
        tally.cpu_s = time.process_time() - used_s
        return vars(tally)


def _drive(pace: Pace, end_s: float, call: Callable[[], Answer]) -> Tally:
    return drive(pace, end_s, call, time.monotonic, time.sleep)
