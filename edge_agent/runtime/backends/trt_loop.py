"""The loop over one TensorRT engine: batches in, outputs out, on three streams of the GPU.

One thread submits batches, each in a slot of its own; `wait` may be called on another. While one
batch is computed, the next is copied in and the one before is copied out. On integrated GPUs host
and GPU share their memory: nothing is copied, and one stream does.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import List, Optional, Tuple

from edge_agent.errors import GpuFailed, InferenceFailed, InvalidPackage, ModelError
from edge_agent.runtime.backends import trt_loading, trt_tensors
from edge_agent.runtime.backends.cuda.driver import Driver
from edge_agent.runtime.backends.slot_layout import SlotLayout, TensorBinding
from edge_agent.runtime.backends.trt_api import TrtModule
from edge_agent.runtime.backends.trt_context import ExecutionContext, Scratch
from edge_agent.runtime.backends.trt_logger import logger
from edge_agent.runtime.backends.trt_slot import GpuTimes, Slot

__all__ = ["EngineLoop", "GpuTimes", "Slot"]


class EngineLoop:
    """An engine that is loaded, ready to compute.

    tensors: inputs first. max_batch: the largest batch; each is filled up to what one of the
    engine's profiles takes. device: where it runs, for people. remarks: what isn't as fast as it
    could be, and why. is_timed: `wait` returns what it has measured, which costs driver calls.

    Made, used and closed with the GPU's context current in the thread. Raises BackendUnavailable
    when the engine can't work here, InvalidPackage when it isn't one that can be served, GpuFailed.
    """

    def __init__(
        self,
        trt: TrtModule,
        driver: Driver,
        engine: bytes,
        dla_core: Optional[int] = None,
        allow_host_code: bool = False,
        is_timed: bool = True,
    ) -> None:
        self.remarks: List[str] = []
        gpu = driver.gpu()
        self.device = f"GPU {gpu.name}" + ("" if dla_core is None else f", DLA core {dla_core}")
        self._driver, self._is_integrated, self._is_timed = driver, gpu.is_integrated, is_timed
        self._logger = logger(trt)
        self._slots: List[Slot] = []
        self._contexts: List[ExecutionContext] = []
        try:
            with ExitStack() as owned:
                self._in, self._compute, self._out = self._streams(owned)
                self._mark = driver.event()
                owned.callback(driver.destroy_event, self._mark)
                self._scratch = Scratch(trt, driver)
                owned.callback(self._scratch.free)
                owned.callback(self._unload)
                self._runtime = trt_loading.runtime(trt, dla_core, allow_host_code=allow_host_code)
                self._engine = trt_loading.engine(trt, self._runtime, engine)
                self.tensors = self._open_contexts(trt)
                self._owned = owned.pop_all()
        except ModelError as error:
            # without the places where it was raised: they keep what must go before the context
            raise error.with_traceback(None) from None
        self.max_batch = max(context.batch for context in self._contexts)

    def open_slot(self, memory: int, layout: SlotLayout) -> Slot:
        """Make `layout.size` bytes at the host address `memory`, on a page, the place of batches.

        They stay the caller's, and there until the slot is closed. What is in them now is what
        batches are filled up with, until others have left items there.
        """
        slot = Slot(self._driver, memory, layout, self._is_integrated, self._is_timed)
        if slot.unpinned:
            self._remark(
                "Batches are copied slowly, from memory that isn't pinned, and don't overlap: "
                f"{slot.unpinned}"
            )
        self._slots.append(slot)
        try:
            slot.copy_in(self.max_batch, self._in)
        except GpuFailed:
            self.close_slot(slot)
            raise
        return slot

    def submit(self, slot: Slot, count: int) -> None:
        """Enqueue all of a batch of `count` items, which lie in the slot, and return at once.

        Raises InferenceFailed, and the slot is free again.
        """
        context = self._choose(count)
        if slot.is_in_flight:
            raise InferenceFailed("The slot's last batch isn't done yet; wait for it first.")
        self._logger.forget()
        try:
            self._enqueue(slot, context, count)
        except InferenceFailed:
            self._drain()  # what is queued already uses the slot; a lost GPU shows up here
            raise
        slot.is_in_flight = True
        if context.no_graphs:
            self._remark(f"CUDA graphs aren't used: {context.no_graphs}")

    def wait(self, slot: Slot) -> GpuTimes:
        """Block until the slot's batch is done: its outputs are in the slot. Raises GpuFailed."""
        if not slot.is_in_flight:
            raise InferenceFailed("The slot has no batch to wait for; submit one first.")
        return slot.wait()

    def close_slot(self, slot: Slot) -> None:
        """Give back the slot's memory on the GPU; waits for what is in flight."""
        self._drain()
        self._slots.remove(slot)
        slot.close()

    def close(self) -> None:
        """Give back everything; the loop can't be used again."""
        with self._owned:
            for slot in list(self._slots):
                self.close_slot(slot)

    def _streams(self, owned: ExitStack) -> List[int]:
        streams: List[int] = []
        for _ in range(1 if self._is_integrated else 3):
            streams.append(self._driver.stream())
            owned.callback(self._driver.destroy_stream, streams[-1])
        return streams * (3 // len(streams))

    def _open_contexts(self, trt: TrtModule) -> Tuple[TensorBinding, ...]:
        """Open one context a profile; return the tensors, inputs first."""
        inputs, found = trt_tensors.inputs(trt, self._engine), set()
        for profile, batch in enumerate(trt_tensors.batches(self._engine, inputs)):
            context = trt_loading.context(trt, self._engine, profile, self._compute, self._scratch)
            self._contexts.append(
                ExecutionContext(self._driver, self._logger, context, inputs, batch)
            )
            outputs = trt_tensors.outputs(trt, self._engine, context, batch)
            found.add((*inputs, *outputs))
        if len(found) != 1:
            raise InvalidPackage("The engine's outputs have another size in each profile.")
        return found.pop()

    def _unload(self) -> None:
        """Let go of contexts before their engine, of the engine before its runtime."""
        for context in self._contexts:
            context.close()
        self._engine = None  # type: ignore[assignment]
        self._runtime = None  # type: ignore[assignment]

    def _choose(self, count: int) -> ExecutionContext:
        """Return the context that computes the fewest items besides `count`."""
        if not 1 <= count <= self.max_batch:
            raise InferenceFailed(
                f"The engine got a batch of {count}; expected 1 to {self.max_batch}."
            )
        fitting = [context for context in self._contexts if context.batch >= count]
        return min(fitting, key=lambda context: context.batch)

    def _enqueue(self, slot: Slot, context: ExecutionContext, count: int) -> None:
        slot.record("began", self._in)
        slot.copy_in(count, self._in)
        slot.record("arrived", self._in)
        slot.wait_for("arrived", self._compute)
        slot.record("started", self._compute)
        context.run(slot.addresses, slot.graphs, self._compute)
        slot.record("computed", self._compute)
        slot.wait_for("computed", self._out)
        slot.record("leaving", self._out)
        slot.copy_out(count, self._out)
        slot.record("done", self._out)

    def _drain(self) -> None:
        """Block until the GPU has done all that was enqueued."""
        for stream in (self._in, self._compute, self._out):
            self._driver.record(self._mark, stream)
            self._driver.synchronize(self._mark)

    def _remark(self, text: str) -> None:
        if text not in self.remarks:
            self.remarks.append(text)
