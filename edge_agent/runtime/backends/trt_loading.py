"""Bytes → engine, by TensorRT's runtime; what hinders it becomes a sentence for people."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Optional

from edge_agent.errors import BackendUnavailable, EngineUnusable, ModelError

if TYPE_CHECKING:
    from edge_agent.runtime.backends.trt_lane import Scratch

# What the runtimes of 8.5 to 11 tell of an engine they refuse.
_OTHER_VERSION = re.compile(
    r"Version tag does not match|not compatible with this version|(older|newer) TensorRT version"
)
_OTHER_GPU = re.compile(r"incompatible device|expecting compute")
_DAMAGED = re.compile(r"Error Code 1: Serialization|No engine found|empty memory buffer")


def runtime(trt: Any, news: Any, dla_core: Optional[int], *, allow_host_code: bool = False) -> Any:
    """Return TensorRT's runtime.

    allow_host_code: run what version-compatible engines have inside for the CPU, in this process;
    only for an engine that this device built itself. All others of that kind stay refused.

    Raises BackendUnavailable where it can't work, or has no such DLA core.
    """
    trt.init_libnvinfer_plugins(news, "")
    try:
        made = trt.Runtime(news)
    except TypeError:  # pybind11 got no object from the factory
        raise BackendUnavailable(
            f"{_name(trt)} can't work on this machine: {news.reason()}. It needs an NVIDIA GPU and "
            "a driver that is new enough for it."
        ) from None
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


def engine(trt: Any, news: Any, runtime: Any, content: bytes) -> Any:
    """Return the engine that `content` is. Raises EngineUnusable, BackendUnavailable."""
    news.forget()
    made = runtime.deserialize_cuda_engine(content)
    if made is None:
        raise _refusal(trt, news)
    return made


def context(
    trt: Any,
    news: Any,
    engine: Any,
    profile: int,
    stream: int,
    scratch: Optional[Scratch] = None,
) -> Any:
    """Return an execution context for good on `profile`. Raises BackendUnavailable, GpuFailed.

    scratch: what it computes in, shared with the engine's others, all of them on one stream;
    without it the context has memory of its own.
    """
    news.forget()
    made = engine.create_execution_context() if scratch is None else scratch.context(engine)
    if made is not None and made.active_optimization_profile != profile:
        news.forget()  # before 10 every context but the first complains that 0 is taken
        if not made.set_optimization_profile_async(profile, stream):
            made = None
    if made is None:
        raise BackendUnavailable(
            f"{_name(trt)} can't make the engine ready to compute: {news.reason()}. If the GPU's "
            "memory is full, unload another model or choose smaller batches."
        )
    if scratch is not None:
        scratch.lend(engine, made)
    return made


def _refusal(trt: Any, news: Any) -> ModelError:
    told = "\n".join(news.errors)
    if _OTHER_VERSION.search(told):
        return EngineUnusable(
            f"The engine was built by another TensorRT than this {trt.__version__}. Build it anew "
            f"here ({news.reason()})."
        )
    if _OTHER_GPU.search(told):
        return EngineUnusable(
            f"The engine was built on another GPU. Build it anew here ({news.reason()})."
        )
    if _DAMAGED.search(told):
        return EngineUnusable(
            f"The engine is damaged or no engine. Build it anew ({news.reason()})."
        )
    return BackendUnavailable(f"{_name(trt)} can't load the engine: {news.reason()}.")


def _name(trt: Any) -> str:
    return f"TensorRT {trt.__version__}"
