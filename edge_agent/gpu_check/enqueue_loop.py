"""The engine alone, as trtexec measures it.

Batches are enqueued back to back on one stream, by a call each or as a CUDA graph that is replayed;
input and output stay in the GPU's memory.
"""

from __future__ import annotations

import time
from contextlib import ExitStack, suppress
from functools import partial
from typing import Callable, Dict, List, Sequence, Tuple

import numpy as np

from edge_agent.errors import BackendUnavailable, GpuFailed
from edge_agent.gpu_check.site import Site
from edge_agent.runtime.backends import trt_loading, trt_tensors
from edge_agent.runtime.backends.slot_layout import TensorBinding

AHEAD = 16  # batches enqueued before one is waited for
PLAIN, GRAPH = "plain", "graph"


class EnqueueLoop:
    """One execution context, that of the agent's loop for batches of one size."""

    def __init__(self, site: Site, tensors: Sequence[TensorBinding], batch: int) -> None:
        """tensors: of the engine, the input first."""
        driver, trt = site.driver, site.trt
        self._driver = driver
        with ExitStack() as owned:
            self._stream = driver.stream()
            owned.callback(driver.destroy_stream, self._stream)
            self._events = (driver.event(), driver.event())
            for event in self._events:
                owned.callback(driver.destroy_event, event)
            self._runtime = trt_loading.runtime(trt, None)
            content = site.engine.read_bytes()
            self._engine = trt_loading.engine(trt, self._runtime, content)
            profile, batch = self._profile(tensors[:1], batch)
            self._context = trt_loading.context(trt, self._engine, profile, self._stream)
            self._context.set_input_shape(tensors[0].name, (batch, *tensors[0].item))
            for tensor in tensors:
                address = driver.allocate(batch * tensor.item_bytes)
                owned.callback(driver.free, address)
                self._context.set_tensor_address(tensor.name, address)
            self.ways: Dict[str, Callable[[], None]] = {PLAIN: self._plain}
            self._record(owned)
            self._owned = owned.pop_all()

    def close(self) -> None:
        """Free everything: the context before its engine, the engine before its runtime."""
        self.ways.clear()
        del self._context, self._engine, self._runtime
        self._owned.close()

    def batches_per_s(self, way: str, seconds: float) -> float:
        """Enqueue for `seconds`, so that work is always there before the last is done."""
        enqueue = partial(self._enqueue, self.ways[way])
        enqueue(self._events[0])
        self._driver.synchronize(self._events[0])
        began, blocks = time.perf_counter(), 1
        enqueue(self._events[0])
        while time.perf_counter() - began < seconds:
            enqueue(self._events[blocks % 2])
            blocks += 1
            self._driver.synchronize(self._events[blocks % 2])
        self._driver.synchronize(self._events[(blocks - 1) % 2])
        return blocks * AHEAD / (time.perf_counter() - began)

    def latency_ms(self, way: str, seconds: float) -> float:
        """Return the median with one batch under way."""
        event, end = self._events[0], time.perf_counter() + seconds
        found: List[float] = []
        while not found or time.perf_counter() < end:
            began = time.perf_counter()
            self.ways[way]()
            self._driver.record(event, self._stream)
            self._driver.synchronize(event)
            found.append(1000 * (time.perf_counter() - began))
        return float(np.median(found))

    def _enqueue(self, way: Callable[[], None], event: int) -> None:
        for _ in range(AHEAD):
            way()
        self._driver.record(event, self._stream)

    def _plain(self) -> None:
        if not self._context.execute_async_v3(self._stream):
            raise BackendUnavailable("TensorRT refuses to enqueue a batch.")

    def _record(self, owned: ExitStack) -> None:
        """Capture a graph after a plain run; without one where that can't be done."""
        driver, event = self._driver, self._events[0]
        self._plain()
        driver.record(event, self._stream)
        driver.synchronize(event)
        try:
            graph = self._capture()
        except (GpuFailed, BackendUnavailable) as error:
            if isinstance(error, GpuFailed) and error.is_sticky:
                raise
            return
        owned.callback(driver.destroy_graph, graph)
        self.ways[GRAPH] = partial(driver.launch_graph, graph, self._stream)

    def _capture(self) -> int:
        self._driver.begin_capture(self._stream)
        try:
            self._plain()
        except BackendUnavailable:
            with suppress(GpuFailed):  # an invalid one; afterwards the stream takes work again
                self._driver.destroy_graph(self._driver.end_capture(self._stream))
            raise
        return self._driver.end_capture(self._stream)

    def _profile(self, inputs: Sequence[TensorBinding], batch: int) -> Tuple[int, int]:
        """Return a profile that holds `batch`, and the batch that it computes."""
        largest = enumerate(trt_tensors.batches(self._engine, inputs))
        fitting = [(size, profile) for profile, size in largest if size >= batch]
        if not fitting:
            raise BackendUnavailable(f"The engine has no profile for a batch of {batch}.")
        size, profile = min(fitting)
        return profile, size
