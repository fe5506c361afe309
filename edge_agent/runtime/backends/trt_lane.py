"""One execution context of an engine, bound to one profile: plain runs, and graphs of them.

A CUDA graph replays the work of one run with one call. It holds for the addresses and the shapes
that it was captured with, and only as long as its context keeps those shapes: after another batch
was set, replaying is undefined (TensorRT developer guide, "CUDA Graphs"). So a graph lives as long
as the batch stays. The first run of a batch is a plain one: it brings the context up to date,
which can't be captured. So are a few more, since capturing takes as long as several runs.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any, Dict, Mapping, NamedTuple, Optional, Sequence

from edge_agent.errors import GpuFailed, InferenceFailed
from edge_agent.runtime.backends.cuda.driver import Driver
from edge_agent.runtime.backends.slot_layout import Tensor
from edge_agent.runtime.backends.trt_tensors import Batches

PLAIN_RUNS = 3  # of a batch that stays, before graphs of it are captured


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
        self._plain_runs = 0  # of this batch
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
            self._turn += 1
            self._plain_runs = 0
        if self._plain_runs >= PLAIN_RUNS and self._replay(addresses, kept, stream):
            return
        self._execute(addresses, stream)
        self._batch = batch
        self._plain_runs += 1

    def close(self) -> None:
        """Let go of the context, whoever still has the lane."""
        self._context = None

    def _replay(self, addresses: Mapping[str, int], kept: Dict[Lane, Graph], stream: int) -> bool:
        """Launch a graph, captured now where there is none; False: it can't be done."""
        if self.no_graphs:
            return False
        try:
            if self not in kept or kept[self].turn != self._turn:
                self._drop(kept)
                kept[self] = Graph(self._capture(addresses, stream), self._turn)
            self._driver.launch_graph(kept[self].handle, stream)
        except InferenceFailed as error:
            self.no_graphs = str(error)
        return not self.no_graphs

    def _drop(self, kept: Dict[Lane, Graph]) -> None:
        if self in kept:
            self._driver.destroy_graph(kept.pop(self).handle)

    def _capture(self, addresses: Mapping[str, int], stream: int) -> int:
        self._driver.begin_capture(stream)
        try:
            self._execute(addresses, stream)
        except InferenceFailed:
            with suppress(GpuFailed):  # a spoilt one; the stream takes work again all the same
                self._driver.destroy_graph(self._driver.end_capture(stream))
            raise
        return self._driver.end_capture(stream)

    def _execute(self, addresses: Mapping[str, int], stream: int) -> None:
        for name, address in addresses.items():
            self._demand(self._context.set_tensor_address(name, address), f"memory for {name!r}")
        self._demand(self._context.execute_async_v3(stream), "the run")

    def _demand(self, done: Any, what: str) -> None:
        if not done:
            raise InferenceFailed(f"TensorRT refuses {what}: {self._news.reason()}.")
