"""The first NVIDIA GPU, asked through the driver's own library, without any Python package.

libcuda.so.1 comes with the driver: on servers, in containers and on Jetson, where there is no
nvidia-smi. Source: CUDA driver API; names with _v2 are what its header makes of the plain ones.
"""

from __future__ import annotations

import ctypes
import re
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generator, Iterable, Iterator, Tuple

import numpy as np

from edge_agent.errors import BackendUnavailable

if TYPE_CHECKING:
    from numpy.typing import NDArray

LIBRARY = "libcuda.so.1"
# Where systems tell the driver's release; on Jetson it is that of L4T.
RELEASES = (Path("/sys/module/nvidia/version"), Path("/etc/nv_tegra_release"))
L4T = re.compile(r"# R(\d+) \(release\), REVISION: ([\d.]+)")
NO_DEVICE = 100  # CUDA_ERROR_NO_DEVICE
CAPABILITY = (75, 76)  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, _MINOR
NAME_BYTES = 256


@dataclass(frozen=True)
class Gpu:
    """What it is and who drives it.

    capability: compute capability, (7, 2). cuda: the newest that the driver knows, "11.4". driver:
    its release, "535.104.05", on Jetson L4T's; empty where nothing tells it.
    """

    name: str
    capability: Tuple[int, int]
    cuda: str
    driver: str

    @property
    def code(self) -> str:
        """The generation as compilers name it: sm_72."""
        return "sm_{}{}".format(*self.capability)


class Cuda:
    """The driver. Raises BackendUnavailable when there is none, and whenever a call fails."""

    def __init__(self, library: str = LIBRARY) -> None:
        try:
            self._library = ctypes.CDLL(library)
        except OSError:
            raise BackendUnavailable(f"This machine has no NVIDIA driver ({LIBRARY}).") from None
        self._call("cuInit", ctypes.c_uint(0))
        self._device = self._ask(ctypes.c_int, "cuDeviceGet", ctypes.c_int(0))

    def gpu(self) -> Gpu:
        """Describe the first GPU."""
        name = ctypes.create_string_buffer(NAME_BYTES)
        self._call("cuDeviceGetName", name, ctypes.c_int(NAME_BYTES), self._device)
        major, minor = (
            self._ask(ctypes.c_int, "cuDeviceGetAttribute", ctypes.c_int(number), self._device)
            for number in CAPABILITY
        )
        version = self._ask(ctypes.c_int, "cuDriverGetVersion").value
        return Gpu(
            name=name.value.decode(errors="replace"),
            capability=(major.value, minor.value),
            cuda=f"{version // 1000}.{version % 1000 // 10}",
            driver=_release(),
        )

    @contextmanager
    def context(self) -> Iterator[None]:
        """Make the GPU's primary context, which TensorRT uses as well, this thread's own."""
        context = self._ask(ctypes.c_void_p, "cuDevicePrimaryCtxRetain", self._device)
        try:
            self._call("cuCtxPushCurrent_v2", context)
            try:
                yield
            finally:
                self._ask(ctypes.c_void_p, "cuCtxPopCurrent_v2")
        finally:
            self._call("cuDevicePrimaryCtxRelease_v2", self._device)

    def free_bytes(self) -> int:
        """Return the GPU's free memory, on Jetson the machine's; within `context`."""
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self._call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        return free.value

    def batches(self, items: Iterable[NDArray[Any]], size: int) -> Generator[int, None, None]:
        """Put `items`, arrays of one shape and dtype, into the GPU's memory, `size` at a time.

        Yields the address of each batch, valid until the next. What lacks in the last is filled up
        by repeating. Within `context`.
        """
        address = None
        try:
            for batch in _chunks(items, size):
                if address is None:
                    wanted = ctypes.c_size_t(batch.nbytes)
                    address = self._ask(ctypes.c_uint64, "cuMemAlloc_v2", wanted)
                source = ctypes.c_void_p(batch.ctypes.data)
                self._call("cuMemcpyHtoD_v2", address, source, ctypes.c_size_t(batch.nbytes))
                yield address.value
        finally:
            if address is not None:
                self._call("cuMemFree_v2", address)

    def _ask(self, kind: Any, name: str, *arguments: Any) -> Any:
        """Return what a call writes to its first argument, of the ctypes type `kind`."""
        answer = kind()
        self._call(name, ctypes.byref(answer), *arguments)
        return answer

    def _call(self, name: str, *arguments: Any) -> None:
        code = getattr(self._library, name)(*arguments)
        if code == NO_DEVICE:
            raise BackendUnavailable("This machine has no NVIDIA GPU that the driver can use.")
        if code:
            text = ctypes.c_char_p()
            self._library.cuGetErrorString(ctypes.c_int(code), ctypes.byref(text))
            reason = (text.value or b"unknown").decode(errors="replace")
            raise BackendUnavailable(f"The GPU can't be used: {name} failed, {reason} ({code}).")


def _chunks(items: Iterable[NDArray[Any]], size: int) -> Iterator[NDArray[Any]]:
    rest = iter(items)
    for chunk in iter(lambda: list(islice(rest, size)), []):
        yield np.ascontiguousarray(np.resize(np.stack(chunk), (size, *chunk[0].shape)))


def _release() -> str:
    for path in RELEASES:
        try:
            first = path.read_text().splitlines()[0].strip()
        except (OSError, IndexError):
            continue
        found = L4T.match(first)
        return "R{}.{}".format(*found.groups()) if found else first
    return ""
