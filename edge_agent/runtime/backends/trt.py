"""TensorRT, in a worker process that computes what lies in memory shared with it."""

from __future__ import annotations

import copy
import mmap
import os
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Optional, Tuple

import numpy as np

from edge_agent.errors import (
    AgentUnavailable,
    BackendUnavailable,
    InferenceFailed,
    InvalidPackage,
)
from edge_agent.manifest import Manifest
from edge_agent.runtime.backends.base import Backend, BackendOptions
from edge_agent.runtime.backends.gpu_worker import GpuWorker
from edge_agent.runtime.backends.slot_layout import SlotLayout, TensorBinding

if TYPE_CHECKING:
    from edge_agent.runtime.backends.base import Array, Outputs


class TrtBackend(Backend):
    """A slot of an engine's worker; `another` has its own one, so that their batches overlap.

    What `run` returns lies in the slot, and is overwritten by its next run: it isn't copied, for
    an inference unit has read it by then. Copy what is needed longer. It stays readable
    after `close`.

    The worker ends with its last backend. When it dies, runs raise AgentUnavailable until it was
    started again, or for good: see `failure`.
    """

    name: ClassVar[str] = "tensorrt"
    can_interrupt: ClassVar[bool] = True  # by ending the worker, for all who share it
    ring: ClassVar[int] = 3  # one batch on its way in, one computed, one on its way out

    def __init__(
        self,
        engine: Path,
        manifest: Manifest,
        options: BackendOptions,
        dla_core: Optional[int] = None,
        allow_host_code: bool = False,
    ) -> None:
        """Start the worker. Raises as `Backend`, and GpuFailed; the options are for CPUs.

        allow_host_code: let it run code for the CPU in the engine, which this device has built.
        """
        super().__init__(manifest)
        opening = {"dla_core": dla_core, "allow_host_code": allow_host_code}
        self._worker = GpuWorker(engine, opening)
        try:
            self._tensors = tuple(map(TensorBinding.from_json, self._worker.ready["tensors"]))
            self._check_engine()
            self.max_batch = self._worker.ready["max_batch"]
            self._make_slot()
        except AgentUnavailable as error:  # here nobody can call again
            self._worker.close()
            raise BackendUnavailable(str(error)) from None
        except BaseException:
            self._worker.close()
            raise

    @property
    def device(self) -> str:
        """The GPU, or its accelerator."""
        return str(self._worker.ready["device"])

    @property
    def remarks(self) -> Tuple[str, ...]:
        """What isn't as fast as it could be and why, for people."""
        return self._worker.remarks

    @property
    def restarts(self) -> int:
        """How often the worker had to be started again."""
        return self._worker.restarts

    @property
    def failure(self) -> str:
        """Why it will never compute again, for people; empty while it does."""
        return self._worker.failure

    def another(self) -> Optional[Backend]:
        """Return one more of the same engine; waits while the worker is starting again.

        None when the worker has ended with its last backend. Raises AgentUnavailable when it
        doesn't start, GpuFailed.
        """
        if self._worker.is_closed:
            return None
        twin = copy.copy(self)
        twin._make_slot()
        return twin

    def slots(self) -> Array:
        """Return the memory that the GPU takes batches from, shape (max_batch, ...)."""
        return self._input

    def interrupt(self) -> None:
        """End the worker if it computes for this backend, which can't be used afterwards."""
        self._worker.interrupt(self._slot)

    def _run(self, batch: Array) -> Outputs:
        count = len(batch)
        self._fill(batch)
        self._worker.run(self._slot, count)
        return {name: values[:count] for name, values in self._outputs.items()}

    def _fill(self, batch: Array) -> None:
        """Put a batch into the slot, unless it lies there already."""
        place = self._input[: len(batch)]
        if batch.shape != place.shape:
            raise InferenceFailed(
                f"The engine got a batch {batch.shape}; expected (n, "
                f"{', '.join(map(str, self._item))})."
            )
        if batch.ctypes.data != place.ctypes.data or batch.strides != place.strides:
            np.copyto(place, batch)

    def _check_engine(self) -> None:
        """Raise InvalidPackage unless the engine is one of the manifest's graph."""
        shapes = [
            {
                tensor.name: (None, *tensor.item)
                for tensor in self._tensors
                if tensor.is_input == is_input
            }
            for is_input in (True, False)
        ]
        self._check_tensors(*shapes)
        dtype = next(tensor.dtype for tensor in self._tensors if tensor.is_input)
        if dtype != self._spec.dtype:
            raise InvalidPackage(
                f"The engine takes {dtype}; the manifest says {self._spec.dtype}. Build it again."
            )

    def _make_slot(self) -> None:
        """Make a slot of its own."""
        layout = SlotLayout(self._tensors, self.max_batch)
        memory = os.memfd_create("edge-agent-slot", os.MFD_CLOEXEC)
        self._memory = os.fdopen(memory, "r+b", buffering=0)
        try:
            self._memory.truncate(layout.size)
            # Never closed by hand: it goes with the last array that lies in it.
            mapped = mmap.mmap(memory, layout.size)
            self._slot = self._worker.open_slot(memory)
        except BaseException:
            self._memory.close()
            raise
        self._input = layout.view(mapped, self._spec.tensor, self.max_batch)
        self._outputs = {name: layout.view(mapped, name, self.max_batch) for name in self._wanted}

    def _close(self) -> None:
        self._worker.close_slot(self._slot)
        self._memory.close()
