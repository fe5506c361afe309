"""The driver's own library, without any Python package.

libcuda.so.1 comes with the driver: on servers, in containers and on Jetson, where there is no
nvidia-smi. Names with _v2 are what cuda.h makes of the plain ones. Source: CUDA driver API.
"""

# ruff: noqa: D102 Driver says what its calls do.

from __future__ import annotations

import ctypes
from contextlib import contextmanager
from ctypes import c_char_p, c_float, c_int, c_size_t, c_uint, c_uint64, c_void_p
from typing import Any, Dict, Iterator, List, Tuple

from edge_agent.errors import BackendUnavailable, GpuFailed
from edge_agent.runtime.backends.cuda.driver import Driver
from edge_agent.runtime.backends.cuda.failures import failure, missing, opening

LIBRARY = "libcuda.so.1"
NO_DRIVER = (
    f"This machine has no NVIDIA driver ({LIBRARY}). It comes with NVIDIA's driver package, on a "
    "Jetson with JetPack; a container must be given it: --gpus all, or --runtime nvidia."
)
NAME_BYTES = 256

HOST_MAPPED = 0x02  # CU_MEMHOSTREGISTER_DEVICEMAP
NON_BLOCKING = 0x1  # CU_STREAM_NON_BLOCKING
BLOCKING_SYNC, DISABLE_TIMING = 0x1, 0x2  # CU_EVENT_...
# CU_STREAM_CAPTURE_MODE_THREAD_LOCAL: other threads may wait for their events meanwhile
OF_THIS_THREAD = 1


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
}  # fmt: skip


class Library:
    """The driver's library at `path`. Raises BackendUnavailable when there is none."""

    def __init__(self, path: str = LIBRARY) -> None:
        try:
            self._library = ctypes.CDLL(path)
        except OSError:
            raise BackendUnavailable(NO_DRIVER) from None
        self._functions: Dict[str, Tuple[Any, List[Tuple[int, Any]]]] = {}

    def call(self, name: str, *arguments: Any) -> Any:
        """Call a function of CALLS without Python's lock; return what it gives back."""
        function, outs = self._functions.get(name) or self._find(name)
        values, answers = list(arguments), []
        for place, kind in outs:
            answers.append(kind())
            values.insert(place, ctypes.byref(answers[-1]))
        code = function(*values)
        if code:
            raise failure(name, code, self.words(code))
        return answers[0].value if len(answers) == 1 else [answer.value for answer in answers]

    def words(self, code: int) -> str:
        """Return what the driver says of a code."""
        text = c_char_p()
        self._library.cuGetErrorString(c_int(code), ctypes.byref(text))
        return (text.value or b"an error without a name").decode(errors="replace")

    def _find(self, name: str) -> Tuple[Any, List[Tuple[int, Any]]]:
        """Return the function, and where among its parameters it gives what back."""
        symbol, *parameters = CALLS[name]
        try:
            function = self._library[symbol]
        except AttributeError:
            raise missing(name) from None
        outs = [(place, one.kind) for place, one in enumerate(parameters) if isinstance(one, Out)]
        for place, kind in outs:
            parameters[place] = ctypes.POINTER(kind)
        function.argtypes = parameters
        self._functions[name] = found = (function, outs)
        return found


class CtypesDriver(Driver):
    """The driver at `path`; raises BackendUnavailable when it or a GPU is missing."""

    def __init__(self, path: str = LIBRARY) -> None:
        self.name = LIBRARY
        self._library = Library(path)
        self._call = self._library.call
        with opening():
            self._call("cuInit", 0)
            self._device = self._call("cuDeviceGet", 0)

    def _give_back(self, name: str, thing: Any) -> None:
        try:
            self._call(name, thing)
        except GpuFailed as error:
            if not error.is_sticky:
                raise

    def _gpu_name(self) -> str:
        name = ctypes.create_string_buffer(NAME_BYTES)
        self._call("cuDeviceGetName", name, NAME_BYTES, self._device)
        return name.value.decode(errors="replace")

    def _version(self) -> int:
        return int(self._call("cuDriverGetVersion"))

    def _attribute(self, number: int) -> int:
        return int(self._call("cuDeviceGetAttribute", number, self._device))

    @contextmanager
    def context(self) -> Iterator[None]:
        context = self._call("cuDevicePrimaryCtxRetain", self._device)
        try:
            self._call("cuCtxPushCurrent", context)
            try:
                yield
            finally:
                self._call("cuCtxPopCurrent")
        finally:
            self._give_back("cuDevicePrimaryCtxRelease", self._device)

    def _memory(self) -> Tuple[int, int]:
        free, total = self._call("cuMemGetInfo")
        return free, total

    def allocate(self, size: int) -> int:
        return int(self._call("cuMemAlloc", size))

    def free(self, address: int) -> None:
        self._give_back("cuMemFree", address)

    def register(self, address: int, size: int) -> int:
        self._call("cuMemHostRegister", address, size, HOST_MAPPED)
        try:
            return int(self._call("cuMemHostGetDevicePointer", address, 0))
        except GpuFailed:
            self._give_back("cuMemHostUnregister", address)
            raise

    def unregister(self, address: int) -> None:
        self._give_back("cuMemHostUnregister", address)

    def stream(self) -> int:
        return int(self._call("cuStreamCreate", NON_BLOCKING))

    def destroy_stream(self, stream: int) -> None:
        self._give_back("cuStreamDestroy", stream)

    def event(self, timed: bool = False) -> int:
        flags = BLOCKING_SYNC if timed else BLOCKING_SYNC | DISABLE_TIMING
        return int(self._call("cuEventCreate", flags))

    def destroy_event(self, event: int) -> None:
        self._give_back("cuEventDestroy", event)

    def copy_in(self, device: int, host: int, size: int, stream: int) -> None:
        self._call("cuMemcpyHtoDAsync", device, host, size, stream)

    def copy_out(self, host: int, device: int, size: int, stream: int) -> None:
        self._call("cuMemcpyDtoHAsync", host, device, size, stream)

    def record(self, event: int, stream: int) -> None:
        self._call("cuEventRecord", event, stream)

    def wait(self, stream: int, event: int) -> None:
        self._call("cuStreamWaitEvent", stream, event, 0)

    def synchronize(self, event: int) -> None:
        self._call("cuEventSynchronize", event)

    def elapsed_ms(self, begin: int, end: int) -> float:
        return float(self._call("cuEventElapsedTime", begin, end))

    def begin_capture(self, stream: int) -> None:
        self._call("cuStreamBeginCapture", stream, OF_THIS_THREAD)

    def end_capture(self, stream: int) -> int:
        noted = self._call("cuStreamEndCapture", stream)
        try:
            return int(self._call("cuGraphInstantiate", noted, 0))
        finally:
            self._give_back("cuGraphDestroy", noted)

    def launch_graph(self, graph: int, stream: int) -> None:
        self._call("cuGraphLaunch", graph, stream)

    def destroy_graph(self, graph: int) -> None:
        self._give_back("cuGraphExecDestroy", graph)


open_here = CtypesDriver
