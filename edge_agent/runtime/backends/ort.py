"""onnxruntime on the CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Dict

import numpy as np

from edge_agent.errors import BackendUnavailable, InferenceFailed, InvalidPackage
from edge_agent.manifest import Manifest
from edge_agent.runtime.backends.base import Backend, BackendOptions

if TYPE_CHECKING:
    from numpy.typing import NDArray

_WARNINGS_OFF = 3  # onnxruntime's severity ERROR


class OrtBackend(Backend):
    """One InferenceSession with its own thread pool of `options.threads`."""

    name: ClassVar[str] = "onnxruntime"
    can_interrupt: ClassVar[bool] = True  # between two nodes of the graph, also inside loops
    device = "CPU"

    def __init__(self, model: bytes, manifest: Manifest, options: BackendOptions) -> None:
        super().__init__(manifest)
        try:
            import onnxruntime as ort
        except ImportError as error:
            raise BackendUnavailable(
                f"onnxruntime can't be imported ({error}); "
                "install it: pip install 'edge-agent[cpu]'."
            ) from None
        try:
            self._session = ort.InferenceSession(
                model, _session_options(ort, options), providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            raise InvalidPackage(
                f"onnxruntime can't load the graph: {_first_line(error)}"
            ) from None
        self._run_options = ort.RunOptions()
        inputs = {tensor.name: tensor.shape for tensor in self._session.get_inputs()}
        outputs = {tensor.name: tensor.shape for tensor in self._session.get_outputs()}
        self._check_tensors(inputs, outputs)
        batch = inputs[self._spec.tensor][0]
        self._fixed_batch = batch if isinstance(batch, int) and batch > 0 else None
        self.max_batch = self._fixed_batch or (self.max_batch if options.cpu_batches else 1)

    def interrupt(self) -> None:
        """Make a run on another thread fail at the next node."""
        self._run_options.terminate = True

    def _run(self, batch: NDArray[Any]) -> Dict[str, NDArray[Any]]:
        count = len(batch)
        if self._fixed_batch and count < self._fixed_batch:
            rest = np.zeros((self._fixed_batch - count, *batch.shape[1:]), batch.dtype)
            batch = np.concatenate((batch, rest))
        try:
            values = self._session.run(self._wanted, {self._spec.tensor: batch}, self._run_options)
        except Exception as error:
            raise InferenceFailed(f"onnxruntime: {_first_line(error)}") from None
        return {name: value[:count] for name, value in zip(self._wanted, values)}

    def _close(self) -> None:
        del self._session


def _session_options(ort: Any, options: BackendOptions) -> Any:
    session = ort.SessionOptions()
    session.intra_op_num_threads = options.threads
    session.inter_op_num_threads = 1
    session.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    session.enable_cpu_mem_arena = options.memory_arena
    session.log_severity_level = _WARNINGS_OFF
    if options.is_optimised:
        session.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session.add_session_config_entry(
        "session.intra_op.allow_spinning", "1" if options.spinning else "0"
    )
    return session


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0][:300] if str(error).strip() else repr(error)
