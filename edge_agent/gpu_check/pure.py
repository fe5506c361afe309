"""The pure enqueue loop: what the engine does when nothing is around it, as trtexec measures it.

Batches are enqueued back to back on one stream; input and output stay in the GPU's memory.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import Sequence

from edge_agent.errors import BackendUnavailable
from edge_agent.gpu_check.site import Site
from edge_agent.runtime.backends import trt_loading, trt_tensors
from edge_agent.runtime.backends.slot_layout import Tensor
from edge_agent.runtime.backends.trt_news import listener

AHEAD = 16  # batches enqueued before one is waited for


class PureLoop:
    """One execution context for batches of one size."""

    def __init__(self, site: Site, tensors: Sequence[Tensor], batch: int) -> None:
        """tensors: of the engine, the input first."""
        driver, trt, news = site.driver, site.trt, listener(site.trt)
        self._driver = driver
        with ExitStack() as owned:
            self._stream = driver.stream()
            owned.callback(driver.destroy_stream, self._stream)
            self._events = (driver.event(), driver.event())
            for event in self._events:
                owned.callback(driver.destroy_event, event)
            self._runtime = trt_loading.runtime(trt, news, None)
            content = site.engine.read_bytes()
            self._engine = trt_loading.engine(trt, news, self._runtime, content)
            profile = self._profile(tensors[:1], batch)
            self._context = trt_loading.context(trt, news, self._engine, profile, self._stream)
            self._context.set_input_shape(tensors[0].name, (batch, *tensors[0].item))
            for tensor in tensors:
                address = driver.allocate(batch * tensor.item_bytes)
                owned.callback(driver.free, address)
                self._context.set_tensor_address(tensor.name, address)
            self._owned = owned.pop_all()

    def close(self) -> None:
        """Free everything: the context before its engine, the engine before its runtime."""
        del self._context, self._engine, self._runtime
        self._owned.close()

    def batches_per_s(self, seconds: float) -> float:
        """Enqueue for `seconds`, so that work is always there before the last is done."""
        self._enqueue(self._events[0])
        self._driver.synchronize(self._events[0])
        began, blocks = time.perf_counter(), 1
        self._enqueue(self._events[0])
        while time.perf_counter() - began < seconds:
            self._enqueue(self._events[blocks % 2])
            blocks += 1
            self._driver.synchronize(self._events[blocks % 2])
        self._driver.synchronize(self._events[(blocks - 1) % 2])
        return blocks * AHEAD / (time.perf_counter() - began)

    def _enqueue(self, event: int) -> None:
        for _ in range(AHEAD):
            if not self._context.execute_async_v3(self._stream):
                raise BackendUnavailable("TensorRT refuses to enqueue a batch.")
        self._driver.record(event, self._stream)

    def _profile(self, inputs: Sequence[Tensor], batch: int) -> int:
        for index, batches in enumerate(trt_tensors.batches(self._engine, inputs)):
            if batches.low <= batch <= batches.high:
                return index
        raise BackendUnavailable(f"The engine has no profile for a batch of {batch}.")
