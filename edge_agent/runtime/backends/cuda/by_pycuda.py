"""pycuda, which is built on the machine itself; what Jetson users have beside JetPack.

It wraps what the driver gives in objects; they are stored here by their numbers. The driver's own
library does the rest: CUDA graphs, which pycuda hasn't; pinning, which crashes in it (2024.1 to
2026.1, NumPy lets no second owner be set).
"""

# ruff: noqa: D102 Driver says what its calls do.

from __future__ import annotations

import ctypes
import re
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Callable, Dict, Iterator, Tuple

import numpy as np

from edge_agent.errors import GpuFailed
from edge_agent.runtime.backends.cuda.by_ctypes import CtypesDriver
from edge_agent.runtime.backends.cuda.failures import failure, opening

if TYPE_CHECKING:
    from numpy.typing import NDArray

BROUGHT = (
    "Install it with pip install pycuda, on the device itself; it needs a compiler and CUDA's "
    "nvcc on the PATH, on a Jetson in /usr/local/cuda/bin."
)
CODES = range(1, 1000)  # of CUresult

_FAILED = re.compile(r"(\w+) failed: (.*)", re.DOTALL)  # what all its errors say


class PycudaDriver(CtypesDriver):
    """The driver through the module pycuda.driver, `api`."""

    def __init__(self, api: Any, name: str) -> None:
        super().__init__()
        self.name, self._api = name, api
        self._things: Dict[int, Any] = {}
        self._lock = threading.Lock()
        self._context: Any = None
        self._users = 0  # of the context
        with opening():
            self._do(api.init)
            self._gpu = self._do(api.Device, 0)

    def _do(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        try:
            return function(*arguments, **options)
        except self._api.Error as error:
            raise self._failure(str(error)) from None

    def _failure(self, message: str) -> GpuFailed:
        """Find the code, which pycuda doesn't give, by the driver's words for it."""
        found = _FAILED.match(message)
        call, words = found.groups() if found else ("pycuda", message)
        known = {self._library.words(code): code for code in reversed(CODES)}
        code = known.get(words) or known.get(words.split(" - ")[0], 0)
        return failure(call, code, words)

    def _keep(self, thing: Any, number: int = 0) -> int:
        number = number or id(thing)
        self._things[number] = thing
        return number

    def _gpu_name(self) -> str:
        return str(self._do(self._gpu.name))

    @contextmanager
    def context(self) -> Iterator[None]:
        """Share one object of pycuda: things go only where it is the very one that is current."""
        with self._lock:
            self._context = self._context or self._do(self._gpu.retain_primary_context)
            self._do(self._context.push)
            self._users += 1
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                self._leave()

    def _leave(self) -> None:
        if self._users:
            self._do(self._context.pop)
            return
        self._things.clear()
        context, self._context = self._context, None
        self._do(context.detach)
        self._call("cuCtxPopCurrent")  # pycuda thinks that releasing it has done so

    def _memory(self) -> Tuple[int, int]:
        free, total = self._do(self._api.mem_get_info)
        return free, total

    def allocate(self, size: int) -> int:
        memory = self._do(self._api.mem_alloc, size)
        return self._keep(memory, int(memory))

    def free(self, address: int) -> None:
        self._do(self._things.pop(address).free)

    def stream(self) -> int:
        stream = self._do(self._api.Stream, 1)
        return self._keep(stream, stream.handle)

    def destroy_stream(self, stream: int) -> None:
        del self._things[stream]

    def event(self, timed: bool = False) -> int:
        flags = self._api.event_flags
        without = flags.DEFAULT if timed else flags.DISABLE_TIMING
        return self._keep(self._do(self._api.Event, flags.BLOCKING_SYNC | without))

    def destroy_event(self, event: int) -> None:
        del self._things[event]

    def copy_in(self, device: int, host: int, size: int, stream: int) -> None:
        self._do(self._api.memcpy_htod_async, device, _bytes(host, size), self._things[stream])

    def copy_out(self, host: int, device: int, size: int, stream: int) -> None:
        self._do(self._api.memcpy_dtoh_async, _bytes(host, size), device, self._things[stream])

    def record(self, event: int, stream: int) -> None:
        self._do(self._things[event].record, self._things[stream])

    def wait(self, stream: int, event: int) -> None:
        self._do(self._things[stream].wait_for_event, self._things[event])

    def synchronize(self, event: int) -> None:
        self._do(self._things[event].synchronize)

    def elapsed_ms(self, begin: int, end: int) -> float:
        return float(self._do(self._things[begin].time_till, self._things[end]))


def _bytes(address: int, size: int) -> NDArray[np.uint8]:
    return np.frombuffer(memoryview((ctypes.c_ubyte * size).from_address(address)), np.uint8)


def open_here() -> PycudaDriver:
    """Open the driver; raises ImportError when there is no pycuda, or no driver below it."""
    import pycuda
    import pycuda.driver as api

    return PycudaDriver(api, f"pycuda {pycuda.VERSION_TEXT}")
