"""One execution context of an engine, for good on one profile and one shape: runs, and graphs.

A context always computes the largest batch of its profile, which is the one that the kernels were
chosen for; what a batch lacks is computed as well and thrown away. (So an engine with one wide
profile computes as many items for one frame as for a full batch: build one profile a batch size.)
A CUDA graph replays the work of one run with one call. It holds for the addresses and the shapes
that it was captured with (TensorRT developer guide, "CUDA Graphs"). Neither changes here, so that
it lasts. The first run is a plain one: it brings the context up to date, which can't be captured.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Dict, Mapping, Optional, Sequence

from edge_agent.errors import GpuFailed, InferenceFailed
from edge_agent.runtime.backends.cuda.driver import Driver
from edge_agent.runtime.backends.slot_layout import TensorBinding
from edge_agent.runtime.backends.trt_api import TrtContext, TrtEngine, TrtModule
from edge_agent.runtime.backends.trt_logger import TrtMessages


class Scratch:
    """Memory for what an engine computes on the way, one allocation for all of its contexts.

    A run needs it until its work on the GPU is done, so they may share it as long as all of them
    run on the same stream, one after the other. Each would take as much as the largest profile
    needs. Where TensorRT's Python offers no such sharing, contexts have memory of their own.
    """

    def __init__(self, trt: TrtModule, driver: Driver) -> None:
        self._driver, self._address = driver, 0
        # From 10.1 on memory is set with its size; from 11 on it's the only way.
        self._is_sized = hasattr(trt.IExecutionContext, "set_device_memory")
        self._is_shared = self._is_sized or hasattr(
            trt.ICudaEngine, "create_execution_context_without_device_memory"
        )
        self._how = trt.ExecutionContextAllocationStrategy.USER_MANAGED if self._is_sized else None

    def context(self, engine: TrtEngine) -> Optional[TrtContext]:
        """Return a context that can't run before `lend`; None: TensorRT can't make it."""
        if self._is_sized:
            return engine.create_execution_context(self._how)
        if self._is_shared:
            return engine.create_execution_context_without_device_memory()
        return engine.create_execution_context()

    def lend(self, engine: TrtEngine, context: TrtContext) -> None:
        """Let a context use the memory, allocated for the first. Raises GpuFailed."""
        if self._is_sized:
            size = engine.device_memory_size_v2
            context.set_device_memory(self._at_least(size), size)
        elif self._is_shared:
            context.device_memory = self._at_least(engine.device_memory_size)

    def free(self) -> None:
        """Give the memory back, after the contexts."""
        if self._address:
            self._driver.free(self._address)
            self._address = 0

    def _at_least(self, size: int) -> int:
        """Return the address, on 256 bytes as CUDA allocates and TensorRT demands; 0 for none."""
        if size and not self._address:
            self._address = self._driver.allocate(size)
        return self._address


class ExecutionContext:
    """Runs batches of `batch` items, all of them on one stream. Raises InferenceFailed."""

    def __init__(
        self,
        driver: Driver,
        logger: TrtMessages,
        context: TrtContext,
        inputs: Sequence[TensorBinding],
        batch: int,
    ) -> None:
        self.batch = batch
        self.no_graphs = ""  # why not
        self._driver, self._logger, self._context = driver, logger, context
        self._is_up_to_date = False
        for tensor in inputs:
            done = context.set_input_shape(tensor.name, (batch, *tensor.item))
            self._demand(done, f"a batch of {batch}")

    def run(
        self, addresses: Mapping[str, int], graphs: Dict[ExecutionContext, int], stream: int
    ) -> None:
        """Put one run into `stream`; returns at once. Raises InferenceFailed.

        addresses: of all tensors. graphs: for these addresses, none of which is running.
        """
        if self._is_up_to_date and self._replay(addresses, graphs, stream):
            return
        self._execute(addresses, stream)
        self._is_up_to_date = True

    def close(self) -> None:
        """Let go of the context, whoever still has this object."""
        self._context = None  # type: ignore[assignment]

    def _replay(
        self, addresses: Mapping[str, int], graphs: Dict[ExecutionContext, int], stream: int
    ) -> bool:
        """Launch a graph, captured now where there is none; False: it can't be done."""
        if self.no_graphs:
            return False
        try:
            if self not in graphs:
                graphs[self] = self._capture(addresses, stream)
            self._driver.launch_graph(graphs[self], stream)
        except InferenceFailed as error:
            self.no_graphs = str(error)
        return not self.no_graphs

    def _capture(self, addresses: Mapping[str, int], stream: int) -> int:
        self._driver.begin_capture(stream)
        try:
            self._execute(addresses, stream)
        except InferenceFailed:
            with suppress(GpuFailed):  # a broken one; the stream takes work again all the same
                self._driver.destroy_graph(self._driver.end_capture(stream))
            raise
        return self._driver.end_capture(stream)

    def _execute(self, addresses: Mapping[str, int], stream: int) -> None:
        for name, address in addresses.items():
            self._demand(self._context.set_tensor_address(name, address), f"memory for {name!r}")
        self._demand(self._context.execute_async_v3(stream), "the run")

    def _demand(self, done: bool, what: str) -> None:
        if not done:
            raise InferenceFailed(f"TensorRT refuses {what}: {self._logger.reason()}.")
