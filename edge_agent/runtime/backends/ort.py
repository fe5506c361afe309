"""onnxruntime, on the CPU or with its CUDA provider."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, ClassVar, Dict, List

import numpy as np

from edge_agent.errors import BackendUnavailable, InferenceFailed, InvalidPackage
from edge_agent.manifest import Manifest
from edge_agent.runtime.backends import ort_cuda
from edge_agent.runtime.backends.base import Backend, BackendOptions

if TYPE_CHECKING:
    from numpy.typing import NDArray

_WARNINGS_OFF = 3  # onnxruntime's severity ERROR


class OrtBackend(Backend):
    """One InferenceSession with its own thread pool of `options.threads`."""

    name: ClassVar[str] = "onnxruntime"
    can_interrupt: ClassVar[bool] = True  # between two nodes of the graph, also inside loops
    extra: ClassVar[str] = "cpu"  # of our distribution, that brings it
    device = "CPU"

    def __init__(self, model: bytes, manifest: Manifest, options: BackendOptions) -> None:
        super().__init__(manifest)
        try:
            import onnxruntime as ort
        except ImportError as error:
            raise BackendUnavailable(
                f"onnxruntime can't be imported ({error}); "
                f"install it: pip install 'edge-agent[{self.extra}]'."
            ) from None
        self._session = self._open(ort, model, _session_options(ort, options))
        self._run_options = ort.RunOptions()
        self._hang_after_s, self._hangs = options.hang_after_s, False
        inputs = {tensor.name: tensor.shape for tensor in self._session.get_inputs()}
        outputs = {tensor.name: tensor.shape for tensor in self._session.get_outputs()}
        self._check_tensors(inputs, outputs)
        batch = inputs[self._spec.tensor][0]
        self._fixed_batch = batch if isinstance(batch, int) and batch > 0 else None
        self.max_batch = self._fixed_batch or self._largest_batch(options)

    def try_out(self, batch: NDArray[Any]) -> Dict[str, NDArray[Any]]:
        """As `run`; interrupted after `hang_after_s`, as a graph may loop for ever."""
        watchdog = threading.Timer(self._hang_after_s, self._give_up)
        watchdog.daemon = True
        watchdog.start()
        try:
            return self.run(batch)
        finally:
            watchdog.cancel()

    def _give_up(self) -> None:
        self._hangs = True
        self.interrupt()

    def interrupt(self) -> None:
        """Make a run on another thread fail at the next node."""
        self._run_options.terminate = True

    def _open(self, ort: Any, model: bytes, options: Any) -> Any:
        return _session(ort.InferenceSession, model, options, ["CPUExecutionProvider"])

    def _largest_batch(self, options: BackendOptions) -> int:
        return self.max_batch if options.cpu_batches else 1

    def _run(self, batch: NDArray[Any]) -> Dict[str, NDArray[Any]]:
        count = len(batch)
        if self._fixed_batch and count < self._fixed_batch:
            rest = np.zeros((self._fixed_batch - count, *batch.shape[1:]), batch.dtype)
            batch = np.concatenate((batch, rest))
        try:
            values = self._session.run(self._wanted, {self._spec.tensor: batch}, self._run_options)
        except Exception as error:
            raise self._failure(error) from None
        return {name: value[:count] for name, value in zip(self._wanted, values)}

    def _failure(self, error: Exception) -> InferenceFailed:
        if self._hangs:
            return InferenceFailed(
                f"The graph computed for more than {self._hang_after_s:g} s on its first frames; "
                "it may never end. Mend the model, or raise engine.hang_after_s."
            )
        return InferenceFailed(f"onnxruntime: {_first_line(error)}")

    def _close(self) -> None:
        del self._session


class OrtCudaBackend(OrtBackend):
    """One InferenceSession on the first NVIDIA GPU; nodes that CUDA lacks are left to the CPU.

    Raises BackendUnavailable unless the session itself says that it uses CUDA: onnxruntime lists
    the provider wherever it was compiled in, and goes over to the CPU without an error.
    """

    name: ClassVar[str] = "onnxruntime-cuda"
    can_interrupt: ClassVar[bool] = False  # a node that is stuck in CUDA doesn't end
    extra: ClassVar[str] = "gpu"

    def __init__(self, model: bytes, manifest: Manifest, options: BackendOptions) -> None:
        self._settings = ort_cuda.options(exact=manifest.runtime.precision == "fp32")
        self._trouble = ""
        super().__init__(model, manifest, options)
        self.device = ort_cuda.device()

    @property
    def trouble(self) -> str:
        """Why it never computes again: after most errors of CUDA the process can't use it."""
        return self._trouble

    def _open(self, ort: Any, model: bytes, options: Any) -> Any:
        ort_cuda.check_package(ort)
        session = self._try(ort, model, options)
        if not ort_cuda.is_used(session) and ort_cuda.load_wheels(ort):
            session = self._try(ort, model, options)
        if not ort_cuda.is_used(session):
            raise BackendUnavailable(ort_cuda.why_not(ort))
        return session

    def _try(self, ort: Any, model: bytes, options: Any) -> Any:
        providers = [(ort_cuda.PROVIDER, self._settings), "CPUExecutionProvider"]
        try:
            return _session(ort_cuda.session_class(ort), model, options, providers)
        except InvalidPackage as error:  # the graph's fault or CUDA's: the CPU will tell
            raise BackendUnavailable(str(error)) from None

    def _largest_batch(self, options: BackendOptions) -> int:
        return self.max_batch

    def _failure(self, error: Exception) -> InferenceFailed:
        self._trouble = self._trouble or ort_cuda.lasting(str(error))
        return super()._failure(error)


def _session(kind: Any, model: bytes, options: Any, providers: List[Any]) -> Any:
    try:
        return kind(model, options, providers=providers)
    except Exception as error:
        raise InvalidPackage(f"onnxruntime can't load the graph: {_first_line(error)}") from None


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
