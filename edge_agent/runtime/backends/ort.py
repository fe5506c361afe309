"""onnxruntime, on the CPU or with its CUDA provider."""

from __future__ import annotations

import logging
import math
import re
import threading
import time
from typing import TYPE_CHECKING, Callable, ClassVar, List, Optional

import numpy as np

from edge_agent.errors import (
    BackendUnavailable,
    EdgeAgentError,
    InferenceFailed,
    InvalidPackage,
    OutOfMemory,
)
from edge_agent.manifest import Manifest
from edge_agent.runtime.backends import ort_cuda
from edge_agent.runtime.backends.base import Backend, BackendOptions
from edge_agent.runtime.backends.ort_cuda import OrtModule, OrtObject, OrtSession
from edge_agent.runtime.system import stalls

if TYPE_CHECKING:
    from edge_agent.runtime.backends.base import Array, Outputs

log = logging.getLogger(__name__)

MIB = 1024 * 1024
_WARNINGS_OFF = 3  # onnxruntime's severity ERROR
QUICK_S = 0.002  # a run so short touches no more than some MiB
GIVE_BACK_EVERY_S = 1.0
_EXTEND_AS_ASKED = 1  # of OrtArenaCfg: by what is needed, not by powers of two
# What onnxruntime says when its arena is full, and when the system gives it nothing.
_NO_MEMORY = re.compile(
    r"Available memory of \d+ is smaller than requested bytes of (\d+)|bad_?\s?alloc"
    r"|[Ff]ailed to allocate memory"
)


class _Arena:
    """The memory that sessions of this process compute in on the CPU, made for the first of them.

    onnxruntime has one such arena a process, and it can be neither made again nor resized.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._limit_bytes = 0

    def bound(self, ort: OrtModule, limit_bytes: int) -> bool:
        """Make it unless it is there; False without a limit, and when this onnxruntime can't."""
        if not limit_bytes:
            return False
        with self._lock:
            if not self._limit_bytes:
                try:
                    kinds = ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT
                    limits = {"max_mem": limit_bytes, "arena_extend_strategy": _EXTEND_AS_ASKED}
                    ort.create_and_register_allocator(
                        ort.OrtMemoryInfo("Cpu", *kinds), ort.OrtArenaCfg(limits)
                    )
                except Exception as error:
                    log.warning(
                        "The memory in which models are computed has no limit: %s.",
                        _first_line(error),
                    )
                    return False
                self._limit_bytes = limit_bytes
            return True

    def refusal(self, asked_bytes: int) -> OutOfMemory:
        """Return the error of a computation that found no room for `asked_bytes`, 0: unknown."""
        asked = f"{-(-asked_bytes // MIB)} MiB more" if asked_bytes else "more"
        bound = f" than the {self._limit_bytes // MIB} MiB" if self._limit_bytes else " than"
        return OutOfMemory(
            f"The model's graph needs {asked} memory while it computes{bound} that all models of "
            "this agent may take. Use a smaller model or batch; or raise models.memory_limit_mib, "
            "if it is set, and restart the agent."
        )


_ARENA = _Arena()


class _Runs:
    """Runs a session, and gives back to the system what a run leaves free in the arena.

    That takes some 10 us. So a model that is quicker than QUICK_S, and takes little memory, gives
    it back once a second; every other one after each run.
    """

    def __init__(self, ort: OrtModule, gives_back: bool) -> None:
        self._keeping, self._giving_back = ort.RunOptions(), ort.RunOptions()
        entry = "memory.enable_memory_arena_shrinkage", "cpu:0"
        self._giving_back.add_run_config_entry(*entry)
        self._due = 0.0 if gives_back else math.inf  # monotonic seconds

    def run(self, session: OrtSession, outputs: List[str], inputs: Outputs) -> List[Array]:
        """Return the values of `outputs`."""
        began = time.monotonic()
        if began < self._due:
            values = session.run(outputs, inputs, self._keeping)
        else:
            values = session.run(outputs, inputs, self._giving_back)
            now = time.monotonic()
            self._due = now + GIVE_BACK_EVERY_S if now - began < QUICK_S else 0.0
        return values

    def terminate(self) -> None:
        """Make the run that goes on, and all further ones, fail."""
        self._keeping.terminate = self._giving_back.terminate = True


class OrtBackend(Backend):
    """One InferenceSession with its own thread pool of `options.threads`.

    It computes within `options.memory_bytes`, whatever the graph and the frames ask for; beyond
    that `run` raises OutOfMemory.
    """

    _can_bound: ClassVar[bool] = True
    name: ClassVar[str] = "onnxruntime"
    can_interrupt: ClassVar[bool] = True  # between two nodes of the graph, also inside loops
    extra: ClassVar[str] = "cpu"  # of our distribution, with which it is installed
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
        is_bounded = self._can_bound and _ARENA.bound(ort, options.memory_bytes)
        self._session = self._open(ort, model, _session_options(ort, options, is_bounded))
        self._runs = _Runs(ort, gives_back=is_bounded and not options.memory_arena)
        self._hang_after_s, self._hangs = options.hang_after_s, False
        inputs = {tensor.name: tensor.shape for tensor in self._session.get_inputs()}
        outputs = {tensor.name: tensor.shape for tensor in self._session.get_outputs()}
        self._check_tensors(inputs, outputs)
        batch = inputs[self._spec.tensor][0]
        self._fixed_batch = batch if isinstance(batch, int) and batch > 0 else None
        self.max_batch = self._fixed_batch or self._largest_batch(options)

    def try_out(self, batch: Array) -> Outputs:
        """As `run`; interrupted after `hang_after_s`, as a graph may loop for ever."""
        watchdog = stalls.Alarm(self._hang_after_s, self._give_up)
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
        self._runs.terminate()

    def _open(self, ort: OrtModule, model: bytes, options: OrtObject) -> OrtSession:
        return _session(ort.InferenceSession, model, options, ["CPUExecutionProvider"])

    def _largest_batch(self, options: BackendOptions) -> int:
        return self.max_batch if options.cpu_batches else 1

    def _run(self, batch: Array) -> Outputs:
        count = len(batch)
        if self._fixed_batch and count < self._fixed_batch:
            rest = np.zeros((self._fixed_batch - count, *batch.shape[1:]), batch.dtype)
            batch = np.concatenate((batch, rest))
        try:
            values = self._runs.run(self._session, self._wanted, {self._spec.tensor: batch})
        except Exception as error:
            raise self._failure(error) from None
        whole = batch.shape[:1]  # `run` refuses an output of another length
        return {
            name: value[:count] if value.shape[:1] == whole else value
            for name, value in zip(self._wanted, values)
        }

    def _failure(self, error: Exception) -> EdgeAgentError:
        if self._hangs:
            return InferenceFailed(
                f"The graph computed for more than {self._hang_after_s:g} s on its first frames; "
                "it may never end. Repair the model, or raise engine.hang_after_s."
            )
        return _without_memory(error) or InferenceFailed(f"onnxruntime: {_first_line(error)}")

    def _close(self) -> None:
        del self._session


class OrtCudaBackend(OrtBackend):
    """One InferenceSession on the first NVIDIA GPU; nodes that CUDA lacks are left to the CPU.

    Raises BackendUnavailable unless the session itself says that it uses CUDA: onnxruntime lists
    the provider wherever it was compiled in, and switches to the CPU without an error.
    """

    _can_bound: ClassVar[bool] = False  # the GPU's memory is another
    name: ClassVar[str] = "onnxruntime-cuda"
    can_interrupt: ClassVar[bool] = False  # a node that is stuck in CUDA doesn't end
    extra: ClassVar[str] = "gpu"

    def __init__(self, model: bytes, manifest: Manifest, options: BackendOptions) -> None:
        self._settings = ort_cuda.options(exact=manifest.runtime.precision == "fp32")
        self._lost = ""
        super().__init__(model, manifest, options)
        self.device = ort_cuda.device()

    @property
    def failure(self) -> str:
        """Why it never computes again: after most errors of CUDA the process can't use it."""
        return self._lost

    def _open(self, ort: OrtModule, model: bytes, options: OrtObject) -> OrtSession:
        ort_cuda.check_package(ort)
        session = self._try(ort, model, options)
        if not ort_cuda.is_used(session) and ort_cuda.load_wheels(ort):
            session = self._try(ort, model, options)
        if not ort_cuda.is_used(session):
            raise BackendUnavailable(ort_cuda.why_not(ort))
        return session

    def _try(self, ort: OrtModule, model: bytes, options: OrtObject) -> OrtSession:
        providers: List[object] = [(ort_cuda.PROVIDER, self._settings), "CPUExecutionProvider"]
        try:
            return _session(ort_cuda.session_class(ort), model, options, providers)
        except (InvalidPackage, OutOfMemory) as error:
            # It is the graph's fault or CUDA's: the CPU will show.
            raise BackendUnavailable(str(error)) from None

    def _largest_batch(self, options: BackendOptions) -> int:
        return self.max_batch

    def _failure(self, error: Exception) -> EdgeAgentError:
        self._lost = self._lost or ort_cuda.lasting(str(error))
        return InferenceFailed(f"onnxruntime: {_first_line(error)}")


def _session(
    kind: Callable[..., OrtSession], model: bytes, options: OrtObject, providers: List[object]
) -> OrtSession:
    try:
        return kind(model, options, providers=providers)
    except Exception as error:
        raise _without_memory(error) or InvalidPackage(
            f"onnxruntime can't load the graph: {_first_line(error)}"
        ) from None


def _without_memory(error: Exception) -> Optional[OutOfMemory]:
    found = _NO_MEMORY.search(str(error))
    if found is None and not isinstance(error, MemoryError):
        return None
    return _ARENA.refusal(int(found[1] or 0) if found else 0)


def _session_options(ort: OrtModule, options: BackendOptions, is_bounded: bool) -> OrtObject:
    session = ort.SessionOptions()
    session.intra_op_num_threads = options.threads
    session.inter_op_num_threads = 1
    session.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    session.enable_cpu_mem_arena = options.memory_arena
    session.log_severity_level = _WARNINGS_OFF
    if options.is_optimised:
        session.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    entries = {
        "session.intra_op.allow_spinning": "1" if options.spinning else "0",
        "session.load_model_format": "ONNX",  # what was verified; never the library's own format
    }
    if is_bounded:
        entries["session.use_env_allocators"] = "1"
        # Weights lie beside the arena, so that they are freed with their session.
        entries["session.use_device_allocator_for_initializers"] = "1"
    for name, value in entries.items():
        session.add_session_config_entry(name, value)
    return session


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0][:300] if str(error).strip() else repr(error)
