"""Bytes → engine, by TensorRT's runtime; a failure becomes a sentence for people."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Optional

from edge_agent.errors import BackendUnavailable, EngineUnusable, ModelError
from edge_agent.runtime.backends.trt_api import TrtContext, TrtEngine, TrtModule, TrtRuntime
from edge_agent.runtime.backends.trt_logger import create, logger, release

if TYPE_CHECKING:
    from edge_agent.runtime.backends.trt_context import Scratch

# What the runtimes of 8.5 to 11 log of an engine they refuse.
_OTHER_VERSION = re.compile(
    r"Version tag does not match|not compatible with this version|(older|newer) TensorRT version"
)
_OTHER_GPU = re.compile(r"incompatible device|expecting compute")
_DAMAGED = re.compile(r"Error Code 1: Serialization|No engine found|empty memory buffer")


def runtime(
    trt: TrtModule, dla_core: Optional[int], *, allow_host_code: bool = False
) -> TrtRuntime:
    """Return TensorRT's runtime.

    allow_host_code: run what version-compatible engines have inside for the CPU, in this process;
    only for an engine that this device built itself. All others of that kind stay refused.

    Raises BackendUnavailable where it can't work, or has no such DLA core.
    """
    made: TrtRuntime = create(trt, "Runtime")
    if dla_core is not None:
        if dla_core >= made.num_DLA_cores:
            raise BackendUnavailable(
                f"There is no DLA core {dla_core}; this GPU has {made.num_DLA_cores} of them. "
                "Leave the setting out to compute on the GPU itself."
            )
        made.DLA_core = dla_core
    if allow_host_code and hasattr(made, "engine_host_code_allowed"):
        made.engine_host_code_allowed = True
    return made


def engine(trt: TrtModule, runtime: TrtRuntime, content: bytes) -> TrtEngine:
    """Return the engine that `content` is. Raises EngineUnusable, BackendUnavailable."""
    logger(trt).forget()
    made = runtime.deserialize_cuda_engine(content)
    if made is None:
        raise _refusal(trt)
    return made


def context(
    trt: TrtModule,
    engine: TrtEngine,
    profile: int,
    stream: int,
    scratch: Optional[Scratch] = None,
) -> TrtContext:
    """Return an execution context for good on `profile`. Raises BackendUnavailable, GpuFailed.

    scratch: what it computes in, shared with the engine's others, all of them on one stream;
    without it the context has memory of its own.
    """
    messages = logger(trt)
    messages.forget()
    made = engine.create_execution_context() if scratch is None else scratch.context(engine)
    if made is not None and made.active_optimization_profile != profile:
        messages.forget()  # before 10 every context but the first complains that 0 is taken
        if not made.set_optimization_profile_async(profile, stream):
            made = None
    if made is None:
        raise BackendUnavailable(
            f"{release(trt)} can't make the engine ready to compute: {messages.reason()}. If the "
            "GPU's memory is full, unload another model or choose smaller batches."
        )
    if scratch is not None:
        scratch.lend(engine, made)
    return made


def _refusal(trt: TrtModule) -> ModelError:
    logged, reason = "\n".join(logger(trt).errors), logger(trt).reason()
    if _OTHER_VERSION.search(logged):
        return EngineUnusable(
            f"The engine was built by another TensorRT than this {trt.__version__}. Build it "
            f"again here ({reason})."
        )
    if _OTHER_GPU.search(logged):
        return EngineUnusable(
            f"The engine was built on another GPU. Build it again here ({reason})."
        )
    if _DAMAGED.search(logged):
        return EngineUnusable(f"The engine is damaged or no engine. Build it again ({reason}).")
    return BackendUnavailable(f"{release(trt)} can't load the engine: {reason}.")
