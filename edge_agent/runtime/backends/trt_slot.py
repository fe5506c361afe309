"""The memory of one batch: where the host has it, where the GPU has it, and how it gets across."""

from __future__ import annotations

import math
from contextlib import ExitStack
from typing import Dict, NamedTuple, Sequence

from edge_agent.errors import GpuFailed
from edge_agent.runtime.backends.cuda.driver import Driver
from edge_agent.runtime.backends.slot_layout import SlotLayout
from edge_agent.runtime.backends.trt_context import ExecutionContext

# Of a batch, in the order in which they come to pass: begin and end of each of its parts.
MOMENTS = ("began", "arrived", "started", "computed", "leaving", "done")


class GpuTimes(NamedTuple):
    """What a batch took on the GPU, waiting for its neighbours left out; NaN if not measured."""

    copy_in_ms: float
    compute_ms: float
    copy_out_ms: float


UNKNOWN = GpuTimes(math.nan, math.nan, math.nan)


class Slot:
    """Host memory that its caller owns, and the same areas on the GPU.

    On integrated GPUs it is the same memory, else the GPU's own. `unpinned` says why the host's
    couldn't be pinned. Used by one batch at a time; its graphs run only then.
    """

    def __init__(
        self,
        driver: Driver,
        memory: int,
        layout: SlotLayout,
        is_integrated: bool,
        is_timed: bool = True,
    ) -> None:
        self.layout = layout
        self.is_in_flight = False
        self.unpinned = ""
        self.graphs: Dict[ExecutionContext, int] = {}
        self._driver, self._host = driver, memory
        self._has_streams, self._is_timed = not is_integrated, is_timed
        self._offsets = {tensor.name: layout.offset(tensor.name) for tensor in layout.tensors}
        self._inputs = [tensor for tensor in layout.tensors if tensor.is_input]
        self._outputs = [tensor for tensor in layout.tensors if not tensor.is_input]
        with ExitStack() as owned:
            mapped = self._pin(owned)
            self.is_mapped = is_integrated and mapped != 0
            if not self.is_mapped:
                mapped = driver.allocate(layout.size)
                owned.callback(driver.free, mapped)
            self._device = mapped
            self._events: Dict[str, int] = {}
            for moment in _noted(is_integrated, is_timed):
                self._events[moment] = event = driver.event(is_timed)
                owned.callback(driver.destroy_event, event)
            owned.callback(self._drop_graphs)
            self._owned = owned.pop_all()
        self.addresses = {name: mapped + offset for name, offset in self._offsets.items()}

    def close(self) -> None:
        """Give back all but the host memory itself; no batch may be in flight."""
        self._owned.close()

    def record(self, moment: str, stream: int) -> None:
        """Note when `stream` gets here, if anybody wants to know."""
        if moment in self._events:
            self._driver.record(self._events[moment], stream)

    def wait_for(self, moment: str, stream: int) -> None:
        """Let `stream` go on only after `moment` has come to pass."""
        if self._has_streams:  # else there is one, which comes past it anyway
            self._driver.wait(stream, self._events[moment])

    def wait(self) -> GpuTimes:
        """Block this thread until the batch is done. Raises GpuFailed."""
        try:
            self._driver.synchronize(self._events["done"])
            if not self._is_timed:
                return UNKNOWN
            return GpuTimes(*map(self._elapsed, MOMENTS[::2], MOMENTS[1::2]))
        finally:
            self.is_in_flight = False

    def copy_in(self, batch: int, stream: int) -> None:
        """Put the copies of the inputs into `stream`."""
        if not self.is_mapped:
            for tensor in self._inputs:
                at = self._offsets[tensor.name]
                size = batch * tensor.item_bytes
                self._driver.copy_in(self._device + at, self._host + at, size, stream)

    def copy_out(self, count: int, stream: int) -> None:
        """Put the copies of the outputs into `stream`."""
        if not self.is_mapped:
            for tensor in self._outputs:
                at = self._offsets[tensor.name]
                size = count * tensor.item_bytes
                self._driver.copy_out(self._host + at, self._device + at, size, stream)

    def _pin(self, owned: ExitStack) -> int:
        """Return the mapped address, 0 where pinning fails."""
        try:
            mapped = self._driver.register(self._host, self.layout.size)
        except GpuFailed as error:
            self.unpinned = str(error)
            return 0
        owned.callback(self._driver.unregister, self._host)
        return mapped

    def _elapsed(self, begin: str, end: str) -> float:
        return self._driver.elapsed_ms(self._events[begin], self._events[end])

    def _drop_graphs(self) -> None:
        while self.graphs:
            self._driver.destroy_graph(self.graphs.popitem()[1])


def _noted(is_integrated: bool, is_timed: bool) -> Sequence[str]:
    """Return the moments that somebody waits for, or that are timed."""
    if is_timed:
        return MOMENTS
    return MOMENTS[-1:] if is_integrated else MOMENTS[1::2]
