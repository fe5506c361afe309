"""onnxruntime's CUDA provider: how it is opened, and why it isn't used where it isn't.

Checked with the wheels onnxruntime-gpu 1.19 to 1.31; options and errors as in their documentation,
https://onnxruntime.ai/docs/execution-providers/CUDA-ExecutionProvider.html.
"""

from __future__ import annotations

import ctypes
import re
import sys
import threading
from contextlib import redirect_stdout
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Optional, Protocol, Sequence

from edge_agent.errors import BackendUnavailable, ModelError
from edge_agent.runtime.backends.cuda.driver import open_driver
from edge_agent.runtime.backends.cuda.failures import STICKY

if TYPE_CHECKING:
    from edge_agent.runtime.backends.base import Array, Outputs

OrtModule = Any  # `onnxruntime` itself: what it offers differs from release to release
OrtObject = Any  # its options


class OrtTensor(Protocol):
    """`NodeArg`: shape has numbers, and names or None for free axes."""

    name: str
    shape: Sequence[object]


class OrtSession(Protocol):
    """`InferenceSession`."""

    def run(
        self, outputs: List[str], inputs: Outputs, options: Optional[OrtObject] = None
    ) -> List[Array]:
        """Return the values of `outputs`."""

    def get_inputs(self) -> List[OrtTensor]:
        """Return the graph's inputs."""

    def get_outputs(self) -> List[OrtTensor]:
        """Return the graph's outputs."""

    def get_providers(self) -> List[str]:
        """Return what computes it, the first as far as it can."""


PROVIDER = "CUDAExecutionProvider"
LIBRARY = "capi/libonnxruntime_providers_cuda.so"
NOT_FOUND = ": cannot open shared object file"  # after the name, in what the loader says
OF_DRIVER = re.compile(r"undefined symbol: (cu[A-Z]\w+)")
DRIVER = "libcuda.so.1"
WHEELS = "install it with pip install 'onnxruntime-gpu[cuda,cudnn]'"
SYSTEM = "it comes with NVIDIA's packages of CUDA and cuDNN, on a Jetson with JetPack"
FAILURE = re.compile(r"CUDA (?:failure|error) (\d+): ([^;]*)")

_loading = threading.Lock()


def options(exact: bool) -> Dict[str, str]:
    """Return the provider's options; `exact`: no TF32, which has 10 bits of fraction, as float16.

    The arena takes what the largest batch needs and no more, so it needs no limit of its own;
    looking for the fastest convolution would take seconds, and memory, at each new batch size.
    """
    return {
        "arena_extend_strategy": "kSameAsRequested",
        "cudnn_conv_algo_search": "HEURISTIC",
        "cudnn_conv_use_max_workspace": "0",
        "use_tf32": "0" if exact else "1",
    }


def check_package(ort: OrtModule) -> None:
    """Raise BackendUnavailable when the package has no such provider."""
    if PROVIDER not in ort.get_available_providers():
        raise BackendUnavailable(
            f"onnxruntime {ort.__version__} is installed in the variant for the CPU. pip uninstall "
            "onnxruntime, then pip install 'edge-agent[gpu]'; both together overwrite each other."
        )


def session_class(ort: OrtModule) -> Callable[..., OrtSession]:
    """Return InferenceSession without its way of going on when a provider fails.

    That prints to stdout, and switches to the CPU for good.
    """

    class Session(ort.InferenceSession):  # type: ignore[misc]
        _enable_fallback = property(lambda _: False, lambda _, wanted: None)

    return Session


def is_used(session: OrtSession) -> bool:
    """Whether the session computes with CUDA; the only way to know."""
    return bool(session.get_providers()[0] == PROVIDER)


def load_wheels(ort: OrtModule) -> bool:
    """Load NVIDIA's libraries from its wheels, where onnxruntime doesn't look by itself.

    False: nothing to be gained.
    """
    if not hasattr(ort, "preload_dlls") or _missing(ort) in ("", DRIVER):
        return False
    with _loading, redirect_stdout(_Aside()):  # type: ignore[type-var]
        ort.preload_dlls()
    return True


def why_not(ort: OrtModule) -> str:
    """Say why a session switched to the CPU."""
    missing, lacking = _missing(ort), OF_DRIVER.search(_refusal(ort))
    if lacking:
        return (
            f"onnxruntime {ort.__version__} can't use CUDA: the driver is too old, it lacks "
            f"{lacking.group(1)}. Install a newer driver, or an older onnxruntime-gpu."
        )
    if missing == DRIVER:
        return f"onnxruntime can't use CUDA: this machine has no NVIDIA driver ({DRIVER})."
    if missing:
        source = WHEELS if hasattr(ort, "preload_dlls") else SYSTEM
        return f"onnxruntime can't use CUDA: {missing} is missing; {source}."
    return (
        f"onnxruntime {ort.__version__} can't use CUDA here and gives no reason; see what "
        "it wrote to the log. The GPU may be too old for it."
    )


def device() -> str:
    """Return the GPU for people; the provider has loaded the driver by now."""
    try:
        return f"GPU {open_driver('libcuda').gpu().name}"
    except ModelError:
        return "GPU"


def lasting(error: str) -> str:
    """Return why nothing can be computed any more; empty after an error that passes."""
    found = FAILURE.search(error)
    if found is None or int(found.group(1)) not in STICKY:
        return ""
    return (
        f"CUDA failed ({found.group(2).strip()}, {found.group(1)}); this process can't use the "
        "GPU any more. Restart the agent."
    )


def _missing(ort: OrtModule) -> str:
    """Return the first library that the provider lacks; empty when none is missing."""
    name, found, _ = _refusal(ort).partition(NOT_FOUND)
    return name if found else ""


def _refusal(ort: OrtModule) -> str:
    """Return why the system doesn't load the provider's library; empty when it does."""
    try:
        ctypes.CDLL(str(Path(ort.__file__).parent / LIBRARY))
    except OSError as error:
        return str(error)
    return ""


class _Aside(SimpleNamespace):
    """What is printed goes to stderr; who writes results to stdout's buffer isn't disturbed."""

    def __init__(self) -> None:
        super().__init__(write=sys.stderr.write, flush=sys.stderr.flush, buffer=sys.stdout.buffer)
