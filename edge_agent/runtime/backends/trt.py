"""TensorRT, in a worker process that computes what lies in memory shared with it."""

from __future__ import annotations

import copy
import logging
import mmap
import os
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Dict, Mapping, Optional, Tuple

import numpy as np

from edge_agent.errors import (
    AgentUnavailable,
    BackendUnavailable,
    InferenceFailed,
    InvalidPackage,
)
from edge_agent.manifest import Manifest
from edge_agent.runtime.backends.base import Backend, BackendOptions
from edge_agent.runtime.backends.gpu_resize import Resizing
from edge_agent.runtime.backends.gpu_worker import GpuWorker
from edge_agent.runtime.backends.slot_layout import SlotLayout, TensorBinding

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edge_agent.runtime.backends.base import Array, Outputs

log = logging.getLogger(__name__)

FRAME_BYTES = 1920 * 1080 * 3  # the largest frame that is resized on the GPU
MOST_FRAMES_BYTES = 64 * 1024 * 1024  # of a slot, pinned: with larger batches the CPU resizes
UNUSED_RUNS = 1000  # so many without a frame, and its room is given back


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
        self._resizing = Resizing.of(manifest.input)
        self._worker = GpuWorker(engine, _opening(self._resizing, dla_core, allow_host_code))
        try:
            self._tensors = tuple(map(TensorBinding.from_json, self._worker.ready["tensors"]))
            self._check_engine()
            self.max_batch = self._worker.ready["max_batch"]
            self._frames: Dict[int, Tuple[int, int, int]] = {}  # index, width, height
            self._unused_runs = 0
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

    def place(self, index: int, frame: NDArray[np.uint8]) -> bool:
        """Take a whole frame, RGB (h, w, 3), as item `index` of the next run.

        False where the worker can't resize, for frames of more than FRAME_BYTES, and for sizes that
        wouldn't become what the CPU makes of them. Frames take much pinned memory: there is room
        for them only after the first, which waits for it. Raises AgentUnavailable.
        """
        height, width = frame.shape[:2]
        if frame.nbytes > FRAME_BYTES or self._resizing is None:
            return False
        if not self._worker.ready["resizes"]:  # one that was started again may lack what others had
            return False
        if not self._resizing.can(width, height) or not self._make_room():
            return False
        np.copyto(self._layout.frame(self._mapped, index, width, height), frame)
        self._frames[index] = (index, width, height)
        return True

    def interrupt(self) -> None:
        """End the worker if it computes for this backend, which can't be used afterwards."""
        self._worker.interrupt(self._slot)

    def _run(self, batch: Array) -> Outputs:
        count = len(batch)
        self._fill(batch)
        frames, self._frames = self._frames, {}
        self._unused_runs = 0 if frames else self._unused_runs + 1
        if self._unused_runs == UNUSED_RUNS:
            self._give_room_back()
        self._worker.run(self._slot, count, list(frames.values()))
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
        """Make a slot of its own, without room for frames."""
        memory = os.memfd_create("edge-agent-slot", os.MFD_CLOEXEC)
        self._memory = os.fdopen(memory, "r+b", buffering=0)
        try:
            self._open_slot(0)
        except BaseException:
            self._memory.close()
            raise
        # What lies here stays here, whatever else of the same memory is mapped later.
        self._input = self._layout.view(self._mapped, self._spec.tensor, self.max_batch)
        self._outputs = {
            name: self._layout.view(self._mapped, name, self.max_batch) for name in self._wanted
        }
        self._frames, self._unused_runs, self._may_have_room = {}, 0, True

    def _open_slot(self, frame_bytes: int) -> None:
        """Let the worker use the memory, with room for frames behind the tensors."""
        layout = SlotLayout.of(self._tensors, self.max_batch, frame_bytes)
        self._memory.truncate(max(layout.size, os.fstat(self._memory.fileno()).st_size))
        # Never closed by hand: it goes with the last array that lies in it.
        mapped = mmap.mmap(self._memory.fileno(), layout.size)
        self._slot = self._worker.open_slot(self._memory.fileno(), frame_bytes)
        self._mapped, self._layout = mapped, layout

    def _make_room(self) -> bool:
        """Tell whether there is room for frames, made now where there is none."""
        if self._layout.frame_bytes == 0 and self._may_have_room:
            is_affordable = FRAME_BYTES * self.max_batch <= MOST_FRAMES_BYTES
            self._may_have_room = is_affordable and self._reopen(FRAME_BYTES)
        return self._layout.frame_bytes > 0

    def _give_room_back(self) -> None:
        layout, mapped = self._layout, self._mapped
        if layout.frame_bytes > 0 and self._reopen(0):
            begin = layout.frames_offset
            mapped.madvise(mmap.MADV_REMOVE, begin, layout.size - begin)

    def _reopen(self, frame_bytes: int) -> bool:
        """Open the slot anew, with what is in it; False: it stays as it was."""
        before = self._slot
        try:
            self._open_slot(frame_bytes)
        except InferenceFailed as error:
            log.warning("There is no other room for whole frames: %s", str(error))
            return False
        self._worker.close_slot(before)
        return True

    def _close(self) -> None:
        self._worker.close_slot(self._slot)
        self._memory.close()


def _opening(
    resizing: Optional[Resizing], dla_core: Optional[int], allow_host_code: bool
) -> Mapping[str, object]:
    """Return what the worker gets when it starts."""
    resize = None
    if resizing is not None:
        resize = {"frame_bytes": FRAME_BYTES, "resizing": resizing.to_json()}
    return {"dla_core": dla_core, "resize": resize, "allow_host_code": allow_host_code}
