"""NVIDIA's own package: cuda-bindings from 12.3; CPython 3.8 has cuda-python 12.3.0.

Its functions take and return what those of C do; theirs begins with the code.
"""

# ruff: noqa: D102 Driver says what its calls do.

from __future__ import annotations

from typing import Any

from edge_agent.runtime.backends.cuda.by_ctypes import NAME_BYTES, Library
from edge_agent.runtime.backends.cuda.c_api import OF_THIS_THREAD, CApi
from edge_agent.runtime.backends.cuda.failures import failure

BROUGHT = "Install it with pip install cuda-bindings, for CPython 3.8 cuda-python==12.3.0."

# What may wait for the GPU: cuda-python 12.3 would keep all other threads of Python waiting too.
WAITING = ("cuEventSynchronize", "cuMemcpyHtoDAsync", "cuMemcpyDtoHAsync")


class BindingsDriver(CApi):
    """The driver through `api`, the module of the package that has its functions."""

    def __init__(self, api: Any, name: str) -> None:
        self._api = api
        self._library = Library()
        super().__init__(name)

    def _call(self, name: str, *arguments: Any) -> Any:
        if name in WAITING:
            return self._library.call(name, *arguments)
        try:
            code, *answers = getattr(self._api, name)(*arguments)
        except ValueError as error:  # "721 is not a valid CUresult": younger than the package
            code, answers = int(str(error).split()[0]), []
        except RuntimeError:  # not found: cuda-bindings 13 looks for forms that CUDA 11 hasn't
            return self._library.call(name, *arguments)
        if code:
            raise failure(name, int(code), self._library.words(int(code)))
        numbers = [one if isinstance(one, (float, bytes)) else int(one) for one in answers]
        return numbers[0] if len(numbers) == 1 else numbers

    def _gpu_name(self) -> str:
        name: bytes = self._call("cuDeviceGetName", NAME_BYTES, self._device)
        return name.split(b"\0")[0].decode(errors="replace")

    def _attribute(self, number: int) -> int:
        return super()._attribute(self._api.CUdevice_attribute(number))

    def begin_capture(self, stream: int) -> None:
        mode = self._api.CUstreamCaptureMode(OF_THIS_THREAD)
        self._call("cuStreamBeginCapture", stream, mode)


def open_here() -> BindingsDriver:
    """Open the driver; raises ImportError when there is no such package."""
    try:
        from cuda import bindings
        from cuda.bindings import driver
    except ImportError:
        import cuda
        from cuda import cuda as old

        return BindingsDriver(old, f"cuda-python {cuda.__version__}")
    return BindingsDriver(driver, f"cuda-bindings {bindings.__version__}")
