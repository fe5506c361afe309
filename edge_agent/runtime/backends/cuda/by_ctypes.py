"""The driver's own library, without any Python package.

libcuda.so.1 comes with the driver: on servers, in containers and on Jetson, where there is no
nvidia-smi. Names with _v2 are what cuda.h makes of the plain ones.
"""

from __future__ import annotations

import ctypes
from ctypes import c_char_p, c_float, c_int, c_size_t, c_uint, c_uint64, c_void_p
from typing import Any, Dict, List, Tuple

from edge_agent.errors import BackendUnavailable
from edge_agent.runtime.backends.cuda.c_api import CApi
from edge_agent.runtime.backends.cuda.failures import NOT_FOUND, failure

LIBRARY = "libcuda.so.1"
BROUGHT = "It comes with NVIDIA's driver, on a Jetson with JetPack."
NO_DRIVER = f"This machine has no NVIDIA driver ({LIBRARY})."
NAME_BYTES = 256


class Out:
    """A parameter of C through which the driver gives something back."""

    def __init__(self, kind: Any) -> None:
        self.kind = kind


HANDLE, ADDRESS = c_void_p, c_uint64
A_HANDLE, AN_ADDRESS, AN_INT = Out(HANDLE), Out(ADDRESS), Out(c_int)

# plain name → name in the library, parameters
CALLS: Dict[str, Tuple[Any, ...]] = {
    "cuInit": ("cuInit", c_uint),
    "cuDriverGetVersion": ("cuDriverGetVersion", AN_INT),
    "cuDeviceGet": ("cuDeviceGet", AN_INT, c_int),
    "cuDeviceGetName": ("cuDeviceGetName", c_char_p, c_int, c_int),
    "cuDeviceGetAttribute": ("cuDeviceGetAttribute", AN_INT, c_int, c_int),
    "cuDevicePrimaryCtxRetain": ("cuDevicePrimaryCtxRetain", A_HANDLE, c_int),
    "cuDevicePrimaryCtxRelease": ("cuDevicePrimaryCtxRelease_v2", c_int),
    "cuCtxPushCurrent": ("cuCtxPushCurrent_v2", HANDLE),
    "cuCtxPopCurrent": ("cuCtxPopCurrent_v2", A_HANDLE),
    "cuMemGetInfo": ("cuMemGetInfo_v2", Out(c_size_t), Out(c_size_t)),
    "cuMemAlloc": ("cuMemAlloc_v2", AN_ADDRESS, c_size_t),
    "cuMemFree": ("cuMemFree_v2", ADDRESS),
    "cuMemHostRegister": ("cuMemHostRegister_v2", c_void_p, c_size_t, c_uint),
    "cuMemHostGetDevicePointer": ("cuMemHostGetDevicePointer_v2", AN_ADDRESS, c_void_p, c_uint),
    "cuMemHostUnregister": ("cuMemHostUnregister", c_void_p),
    "cuStreamCreate": ("cuStreamCreate", A_HANDLE, c_uint),
    "cuStreamDestroy": ("cuStreamDestroy_v2", HANDLE),
    "cuStreamWaitEvent": ("cuStreamWaitEvent", HANDLE, HANDLE, c_uint),
    "cuStreamBeginCapture": ("cuStreamBeginCapture_v2", HANDLE, c_int),
    "cuStreamEndCapture": ("cuStreamEndCapture", HANDLE, A_HANDLE),
    "cuEventCreate": ("cuEventCreate", A_HANDLE, c_uint),
    "cuEventDestroy": ("cuEventDestroy_v2", HANDLE),
    "cuEventRecord": ("cuEventRecord", HANDLE, HANDLE),
    "cuEventSynchronize": ("cuEventSynchronize", HANDLE),
    "cuEventElapsedTime": ("cuEventElapsedTime", Out(c_float), HANDLE, HANDLE),
    "cuMemcpyHtoDAsync": ("cuMemcpyHtoDAsync_v2", ADDRESS, c_void_p, c_size_t, HANDLE),
    "cuMemcpyDtoHAsync": ("cuMemcpyDtoHAsync_v2", c_void_p, ADDRESS, c_size_t, HANDLE),
    "cuGraphInstantiate": ("cuGraphInstantiateWithFlags", A_HANDLE, HANDLE, c_uint64),
    "cuGraphLaunch": ("cuGraphLaunch", HANDLE, HANDLE),
    "cuGraphExecDestroy": ("cuGraphExecDestroy", HANDLE),
    "cuGraphDestroy": ("cuGraphDestroy", HANDLE),
    "cuModuleLoadData": ("cuModuleLoadData", A_HANDLE, c_char_p),
    "cuModuleGetFunction": ("cuModuleGetFunction", A_HANDLE, HANDLE, c_char_p),
    "cuLaunchKernel": ("cuLaunchKernel", HANDLE, *[c_uint] * 7, HANDLE, c_void_p, c_void_p),
}  # fmt: skip


class CtypesDriver(CApi):
    """The library at `path`. Raises BackendUnavailable when it or a GPU is missing."""

    def __init__(self, path: str = LIBRARY) -> None:
        try:
            self._library = ctypes.CDLL(path)
        except OSError:
            raise BackendUnavailable(f"{NO_DRIVER} {BROUGHT}") from None
        self.name = LIBRARY
        self._functions: Dict[str, Tuple[Any, List[Tuple[int, Any]]]] = {}
        super().__init__()

    def _gpu_name(self) -> str:
        name = ctypes.create_string_buffer(NAME_BYTES)
        self._call("cuDeviceGetName", name, NAME_BYTES, self._device)
        return name.value.decode(errors="replace")

    def _call(self, name: str, *arguments: Any) -> Any:
        function, outs = self._functions.get(name) or self._find(name)
        values, answers = list(arguments), []
        for place, kind in outs:
            answers.append(kind())
            values.insert(place, ctypes.byref(answers[-1]))
        code = function(*values)
        if code:
            raise failure(name, code, words(self._library, code))
        return answers[0].value if len(answers) == 1 else [answer.value for answer in answers]

    def _find(self, name: str) -> Tuple[Any, List[Tuple[int, Any]]]:
        """Return the function, and where among its parameters it gives what back."""
        symbol, *parameters = CALLS[name]
        try:
            function = self._library[symbol]
        except AttributeError:
            raise failure(name, NOT_FOUND, "this driver is too old to have it") from None
        outs = [(place, one.kind) for place, one in enumerate(parameters) if isinstance(one, Out)]
        for place, kind in outs:
            parameters[place] = ctypes.POINTER(kind)
        function.argtypes = parameters
        self._functions[name] = found = (function, outs)
        return found


def words(library: Any, code: int) -> str:
    """Return what the driver says of a code."""
    text = c_char_p()
    library.cuGetErrorString(c_int(code), ctypes.byref(text))
    return (text.value or b"unknown error").decode(errors="replace")


def open_here() -> CtypesDriver:
    """Open the installed driver."""
    return CtypesDriver()
