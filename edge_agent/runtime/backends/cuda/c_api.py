"""The driver by the names of its C functions; how they are called is left to the adapters.

Source: CUDA driver API. An adapter's `_call` returns what C writes through pointers.
"""

# ruff: noqa: D102 Driver says what its calls do.

from __future__ import annotations

import ctypes
import hashlib
import threading
from contextlib import contextmanager
from typing import Any, Callable, Dict, Iterator, Sequence, Tuple

from edge_agent.errors import GpuFailed
from edge_agent.runtime.backends.cuda.driver import Driver, Size3
from edge_agent.runtime.backends.cuda.failures import opening

HOST_MAPPED = 0x02  # CU_MEMHOSTREGISTER_DEVICEMAP
NON_BLOCKING = 0x1  # CU_STREAM_NON_BLOCKING
BLOCKING_SYNC, DISABLE_TIMING = 0x1, 0x2  # CU_EVENT_...
# CU_STREAM_CAPTURE_MODE_THREAD_LOCAL: other threads may wait for their events meanwhile
OF_THIS_THREAD = 1


class CApi(Driver):
    """An adapter whose package has the functions of the C API."""

    _call: Callable[..., Any]  # by name and arguments, returns a number or several

    def __init__(self, name: str) -> None:
        self.name = name
        self._users = 0  # of the context
        self._counting = threading.Lock()
        self._modules: Dict[bytes, Any] = {}  # by the digest of their text
        with opening():
            self._call("cuInit", 0)
            self._device = self._call("cuDeviceGet", 0)

    def _give_back(self, name: str, thing: Any) -> None:
        try:
            self._call(name, thing)
        except GpuFailed as error:
            if not error.is_sticky:
                raise

    def _version(self) -> int:
        return int(self._call("cuDriverGetVersion"))

    def _attribute(self, number: int) -> int:
        return int(self._call("cuDeviceGetAttribute", number, self._device))

    @contextmanager
    def context(self) -> Iterator[None]:
        context = self._call("cuDevicePrimaryCtxRetain", self._device)
        try:
            self._call("cuCtxPushCurrent", context)
            self._count(1)
            try:
                yield
            finally:
                self._count(-1)
                self._call("cuCtxPopCurrent")
        finally:
            self._give_back("cuDevicePrimaryCtxRelease", self._device)

    def _count(self, change: int) -> None:
        """Note who uses the context; with the last one its modules go."""
        with self._counting:
            self._users += change
            if not self._users:
                self._modules.clear()

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

    def load_function(self, ptx: bytes, name: str) -> int:
        digest = hashlib.sha256(ptx).digest()
        if digest not in self._modules:  # ptx ends with a zero, as all bytes in CPython
            self._modules[digest] = self._call("cuModuleLoadData", ptx)
        return int(self._call("cuModuleGetFunction", self._modules[digest], name.encode()))

    def launch(
        self, function: int, grid: Size3, block: Size3, arguments: Sequence[Any], stream: int
    ) -> None:
        places = (ctypes.c_void_p * len(arguments))(*map(ctypes.addressof, arguments))
        # 0: no shared memory besides the kernel's own, no further options
        where = ctypes.addressof(places)
        self._call("cuLaunchKernel", function, *grid, *block, 0, stream, where, 0)
