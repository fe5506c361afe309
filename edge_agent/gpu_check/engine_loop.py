"""The agent's CUDA loop in this process, without the agent around it."""

from __future__ import annotations

import ctypes
import mmap
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Iterator, List, Sequence, Tuple, cast

import numpy as np

from edge_agent.errors import GpuFailed
from edge_agent.gpu_check.site import Site
from edge_agent.runtime.backends.cuda.driver import Driver
from edge_agent.runtime.backends.slot_layout import SlotLayout
from edge_agent.runtime.backends.trt_loop import EngineLoop, GpuTimes, Slot

if TYPE_CHECKING:
    from numpy.typing import NDArray

RING = 3
WARM_UP = 4  # runs of each slot: the first is a plain one, then it is recorded as a graph


class WithoutGraphs:
    """A driver that can do everything but record graphs."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    def __getattr__(self, name: str) -> object:
        return getattr(self._driver, name)

    def begin_capture(self, stream: int) -> None:
        """Refuse."""
        raise GpuFailed.after("CUDA graphs are switched off for this measurement.", 0, False)


@dataclass
class LoopRun:
    """Batches of one size, one after the other; `parts_ms` are their times in the GPU's view."""

    frames: int = 0
    seconds: float = 0.0
    latencies_ms: List[float] = field(default_factory=list)
    parts_ms: List[Tuple[float, float, float]] = field(default_factory=list)

    @property
    def fps(self) -> float:
        """Frames a second."""
        return self.frames / self.seconds

    @property
    def p50_ms(self) -> float:
        """Median from handing a batch over to its result."""
        return float(np.median(self.latencies_ms))


class PinnedLoop:
    """An engine with `RING` pinned slots full of pictures."""

    def __init__(self, loop: EngineLoop, slots: Sequence[Slot]) -> None:
        self._loop, self._slots = loop, slots
        self.tensors, self.max_batch, self.remarks = loop.tensors, loop.max_batch, loop.remarks

    def ring(self, count: int, seconds: float) -> LoopRun:
        """Keep all slots busy with batches of `count`."""
        return self._drive(self._slots, count, seconds)

    def one_by_one(self, count: int, seconds: float) -> LoopRun:
        """Wait for each batch before the next is begun."""
        return self._drive(self._slots[:1], count, seconds)

    def _drive(self, slots: Sequence[Slot], count: int, seconds: float) -> LoopRun:
        for _ in range(WARM_UP):
            for slot in slots:
                self._loop.submit(slot, count)
            for slot in slots:
                self._loop.wait(slot)
        run, began = LoopRun(), time.perf_counter()
        begun = {}
        for index, slot in enumerate(slots):
            begun[index] = time.perf_counter()
            self._loop.submit(slot, count)
        index = 0
        while begun:
            times, now = self._loop.wait(slots[index]), time.perf_counter()
            _record(run, count, 1000 * (now - begun.pop(index)), times)
            if now - began < seconds:
                begun[index] = time.perf_counter()
                self._loop.submit(slots[index], count)
            index = (index + 1) % len(slots)
        run.seconds = time.perf_counter() - began
        return run


@contextmanager
def opened(site: Site, with_graphs: bool = True, slots: int = RING) -> Iterator[PinnedLoop]:
    """Open the site's engine; everything is given back at the end."""
    driver = site.driver if with_graphs else cast(Driver, WithoutGraphs(site.driver))
    loop = EngineLoop(site.trt, driver, site.engine.read_bytes())
    try:
        with _slots(loop, site.pictures, slots) as ready:
            yield PinnedLoop(loop, ready)
    finally:
        loop.close()


@contextmanager
def _slots(
    loop: EngineLoop, pictures: Sequence[NDArray[np.uint8]], count: int
) -> Iterator[List[Slot]]:
    layout = SlotLayout(loop.tensors, loop.max_batch)
    ready: List[Tuple[Slot, mmap.mmap]] = []
    try:
        for _ in range(count):
            memory = mmap.mmap(-1, layout.size)
            _fill(memory, layout, loop, pictures)
            address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
            ready.append((loop.open_slot(address, layout), memory))
        yield [slot for slot, _ in ready]
    finally:
        for slot, memory in ready:
            loop.close_slot(slot)
            memory.close()


def _fill(
    memory: mmap.mmap, layout: SlotLayout, loop: EngineLoop, pictures: Sequence[NDArray[np.uint8]]
) -> None:
    """Put pictures into the input, where it takes pictures as they are."""
    for tensor in loop.tensors:
        if tensor.is_input and tensor.item == pictures[0].shape:
            target = layout.view(memory, tensor.name, loop.max_batch)
            for index in range(loop.max_batch):
                target[index] = pictures[index % len(pictures)]


def _record(run: LoopRun, count: int, latency_ms: float, times: GpuTimes) -> None:
    run.frames += count
    run.latencies_ms.append(latency_ms)
    run.parts_ms.append((times.copy_in_ms, times.compute_ms, times.copy_out_ms))
