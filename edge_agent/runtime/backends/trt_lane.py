"""One execution context of an engine, bound to one profile: plain runs, and graphs of them.

A CUDA graph replays the work of one run with one call. It holds for the addresses and the shapes
that it was captured with, and only as long as its context keeps those shapes: after another batch
was set, replaying is undefined (TensorRT developer guide, "CUDA Graphs"). So a graph lives as long
as the batch stays. The first run of a batch is a plain one: it brings the context up to date,
which can't be captured.
"""

from __future__ import annotations

from typing import Any, Dict, Mapping, NamedTuple, Optional, Sequence

from edge_agent.errors import GpuFailed, InferenceFailed
from edge_agent.runtime.backends.cuda.driver import Driver
from edge_agent.runtime.backends.slot_layout import Tensor
from edge_agent.runtime.backends.trt_tensors import Batches


class Graph(NamedTuple):
    """`turn`: which of its lane's batches it was captured for."""

    handle: int
    turn: int


class Lane:
    """Runs batches of so many items as `batches` says; all of them on one stream."""

    def __init__(
        self, driver: Driver, news: Any, context: Any, inputs: Sequence[Tensor], batches: Batches
    ) -> None:
        self.batches = batches
        self.no_graphs = ""  # why not
        self._driver, self._news, self._context = driver, news, context
        self._inputs = inputs
        self._batch: Optional[int] = None  # that the context is up to date for
        self._turn = 0

    def set_shapes(self, batch: int) -> None:
        """Set the shapes of the inputs. Raises InferenceFailed."""
        self._batch = None
        for tensor in self._inputs:
            done = self._context.set_input_shape(tensor.name, (batch, *tensor.item))
            self._demand(done, f"a batch of {batch}")

    def run(
        self, batch: int, addresses: Mapping[str, int], kept: Dict[Lane, Graph], stream: int
    ) -> None:
        """Put one run into `stream`; returns at once. Raises InferenceFailed.

        addresses: of all tensors. kept: graphs for these addresses, none of which is running.
        """
        if batch != self._batch:
            self.set_shapes(batch)
            self._execute(addresses, stream)
            self._batch = batch
            self._turn += 1
        elif self._has_graph(addresses, kept, stream):
            self._driver.launch_graph(kept[self].handle, stream)
        else:
            self._execute(addresses, stream)

    def close(self) -> None:
        """Let go of the context, whoever still has the lane."""
        self._context = None

    def _has_graph(
        self, addresses: Mapping[str, int], kept: Dict[Lane, Graph], stream: int
    ) -> bool:
        graph = kept.get(self)
        if graph is not None and graph.turn == self._turn:
            return True
        if graph is not None:
            self._driver.destroy_graph(kept.pop(self).handle)
        if self.no_graphs:
            return False
        try:
            kept[self] = Graph(self._capture(addresses, stream), self._turn)
        except InferenceFailed as error:
            if isinstance(error, GpuFailed) and error.is_sticky:
                raise
            self.no_graphs = str(error)
        return not self.no_graphs

    def _capture(self, addresses: Mapping[str, int], stream: int) -> int:
        self._driver.begin_capture(stream)
        try:
            self._execute(addresses, stream)
        except InferenceFailed:
            self._leave_capture(stream)
            raise
        return self._driver.end_capture(stream)

    def _leave_capture(self, stream: int) -> None:
        try:
            graph = self._driver.end_capture(stream)
        except GpuFailed as error:
            if error.is_sticky:
                raise
        else:
            self._driver.destroy_graph(graph)

    def _execute(self, addresses: Mapping[str, int], stream: int) -> None:
        for name, address in addresses.items():
            self._demand(self._context.set_tensor_address(name, address), f"memory for {name!r}")
        self._demand(self._context.execute_async_v3(stream), "the run")

    def _demand(self, done: Any, what: str) -> None:
        if not done:
            raise InferenceFailed(f"TensorRT refuses {what}: {self._news.reason()}.")
