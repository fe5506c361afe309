"""What every engine offers: open on bytes, run a batch, close. Checks here, work in the hooks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Dict, Mapping, Optional, Sequence, Tuple

import numpy as np

from edge_agent.errors import InferenceFailed, InvalidPackage
from edge_agent.manifest import Manifest

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]  # of the dtype that the graph or the manifest names
    Outputs = Dict[str, Array]  # by tensor name
    Shapes = Mapping[str, Sequence[object]]  # by tensor name; an axis is free unless it's a number


@dataclass(frozen=True)
class BackendOptions:
    """How an engine may use the machine.

    threads: of this instance, 0 leaves it to the engine. spinning: threads wait actively.
    memory_arena: hold freed memory for the next run. cpu_batches: compute several frames at a time
    on a CPU as well, where a frame of a batch usually takes longer than a frame alone: the caches
    hold the intermediate tensors of one frame, not of many. is_optimised: the graph is what the
    engine made of another one beforehand, and isn't to be changed again. memory_bytes: what all
    engines of this process together may take to compute on the CPU, besides the models' weights;
    0: no bound. The first engine that is opened with a bound sets it for all. hang_after_s: a first
    run that long hangs.
    """

    threads: int = 0
    spinning: bool = False
    memory_arena: bool = False
    cpu_batches: bool = False
    is_optimised: bool = False
    memory_bytes: int = 0
    hang_after_s: float = 30.0


class Backend(ABC):
    """One loaded model in one engine; `run` may be called on any thread, one at a time.

    The constructor loads and raises BackendUnavailable when the engine cannot work here,
    InvalidPackage when the graph is not what the manifest says.
    """

    name: ClassVar[str]
    can_interrupt: ClassVar[bool] = False  # whether `interrupt` ends a run
    ring: ClassVar[int] = 1  # so many instances of a loaded model keep the device busy

    def __init__(self, manifest: Manifest) -> None:
        self._spec = manifest.input
        size = (self._spec.height, self._spec.width)
        self._item = (*size, 3) if self._spec.layout == "NHWC" else (3, *size)
        outputs = manifest.outputs
        self._wanted = [name for name in (outputs.score, outputs.map, outputs.class_maps) if name]
        self.max_batch = max(manifest.runtime.batch_sizes)

    @property
    @abstractmethod
    def device(self) -> str:
        """Where it really runs, for people: "CPU", "GPU Orin"."""

    @property
    def failure(self) -> str:
        """Why it will never compute again, for people; empty while it does."""
        return ""

    @property
    def remarks(self) -> Tuple[str, ...]:
        """What isn't as fast as it could be and why, for people."""
        return ()

    def another(self) -> Optional[Backend]:
        """Return one more instance of the same loaded model; None: open it again."""
        return None

    def slots(self) -> Array:
        """Return the memory that `run` takes a batch from without copying it.

        Shape (max_batch, ...) of the manifest's input shape and dtype; the caller fills it between
        runs, and gives its first items to `run`.
        """
        return np.zeros((self.max_batch, *self._item), self._spec.dtype)

    def run(self, batch: Array) -> Outputs:
        """Compute `batch` (n, ...) of the manifest's input shape and dtype, 1 <= n <= max_batch.

        Returns the manifest's outputs by tensor name, each with n items; they may be overwritten by
        the next run. Raises InferenceFailed, AgentUnavailable when another try may pass.
        """
        if not 1 <= len(batch) <= self.max_batch or batch.dtype != np.dtype(self._spec.dtype):
            raise InferenceFailed(
                f"The engine got a batch {batch.shape} of {batch.dtype}; expected 1 to "
                f"{self.max_batch} items of {self._spec.dtype}."
            )
        outputs = self._run(batch)
        for name, values in outputs.items():
            if values.shape[:1] != batch.shape[:1]:
                count = len(values) if values.ndim else "no"
                raise InferenceFailed(
                    f"Output {name!r} has {count} items for a batch of {len(batch)}; "
                    "its first axis must be the batch."
                )
        return outputs

    def try_out(self, batch: Array) -> Outputs:
        """`run` before the model serves, when no batcher sees it hang: it ends by itself."""
        return self.run(batch)

    def interrupt(self) -> None:
        """Make a run on another thread fail soon; the backend can't be used afterwards."""
        raise NotImplementedError(f"{self.name} can't end a run.")

    def close(self) -> None:
        """Free the engine's memory; the backend cannot be used again."""
        self._close()

    def _check_tensors(self, inputs: Shapes, outputs: Shapes) -> None:
        """Compare the graph's tensor names and shapes (None for free axes) with the manifest."""
        spec = self._spec
        if spec.tensor not in inputs or len(inputs) != 1:
            raise InvalidPackage(
                f"The graph's inputs are {', '.join(inputs)}; the manifest names "
                f"{spec.tensor!r} as the only one."
            )
        shape = inputs[spec.tensor]
        if len(shape) != 4 or any(
            isinstance(axis, int) and axis > 0 and axis != wanted
            for axis, wanted in zip(shape[1:], self._item)
        ):
            raise InvalidPackage(
                f"The graph's input {spec.tensor!r} has shape {list(shape)}; the manifest says "
                f"(N, {', '.join(map(str, self._item))})."
            )
        missing = [name for name in self._wanted if name not in outputs]
        if missing:
            raise InvalidPackage(
                f"The graph has no output {', '.join(missing)}; it has {', '.join(outputs)}."
            )

    @abstractmethod
    def _run(self, batch: Array) -> Outputs: ...

    @abstractmethod
    def _close(self) -> None: ...
