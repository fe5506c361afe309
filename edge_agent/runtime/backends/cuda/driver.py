"""The CUDA driver as the agent uses it: the same few calls through pycuda or libcuda itself.

The first GPU and its primary context, which TensorRT uses as well. Addresses and handles (streams,
events, graphs) are plain numbers. Who makes a thing gives it back.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from contextlib import ExitStack
from dataclasses import dataclass
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Any,
    ContextManager,
    Generator,
    Iterable,
    Iterator,
    Optional,
    Tuple,
)

import numpy as np

from edge_agent.errors import BackendUnavailable

if TYPE_CHECKING:
    from numpy.typing import NDArray

# name → module of this package with its `open_here`; asked in this order
ADAPTERS = {"pycuda": "by_pycuda", "libcuda": "by_ctypes"}

# Where systems have the driver's release; on Jetson it is that of L4T.
RELEASES = (Path("/sys/module/nvidia/version"), Path("/etc/nv_tegra_release"))
L4T = re.compile(r"# R(\d+) \(release\), REVISION: ([\d.]+)")

# CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, _MINOR, CU_DEVICE_ATTRIBUTE_INTEGRATED
MAJOR, MINOR, INTEGRATED = 75, 76, 18


@dataclass(frozen=True)
class Gpu:
    """What it is and who drives it.

    capability: compute capability, (7, 2). cuda: the newest that the driver knows, "11.4". driver:
    its release, "535.104.05", on Jetson L4T's; empty where it isn't known. is_integrated: it uses
    the machine's own memory.
    """

    name: str
    capability: Tuple[int, int]
    cuda: str
    driver: str
    is_integrated: bool = False

    @property
    def code(self) -> str:
        """The generation as compilers name it: sm_72."""
        return "sm_{}{}".format(*self.capability)


class Driver(ABC):
    """The driver, opened. Everything but `gpu` needs `context` in the calling thread.

    Whatever fails raises GpuFailed, whose `is_sticky` says that only another process can go on. In
    a process that can't, giving things back is silent: they end with it.
    """

    name: str  # of what brings the calls, with its version

    def gpu(self) -> Gpu:
        """Describe the first GPU."""
        version = self._version()
        return Gpu(
            name=self._gpu_name(),
            capability=(self._attribute(MAJOR), self._attribute(MINOR)),
            cuda=f"{version // 1000}.{version % 1000 // 10}",
            driver=_release(),
            is_integrated=bool(self._attribute(INTEGRATED)),
        )

    @abstractmethod
    def _gpu_name(self) -> str: ...

    @abstractmethod
    def _attribute(self, number: int) -> int: ...

    @abstractmethod
    def _version(self) -> int:
        """Return CUDA's version, 11040 for 11.4."""

    @abstractmethod
    def context(self) -> ContextManager[None]:
        """Make the GPU's primary context this thread's own; each thread does so for itself."""

    def free_bytes(self) -> int:
        """Return the GPU's free memory, on Jetson the machine's."""
        return self._memory()[0]

    def total_bytes(self) -> int:
        """Return the size of the GPU's memory, on Jetson of the machine's."""
        return self._memory()[1]

    @abstractmethod
    def _memory(self) -> Tuple[int, int]:
        """Return the bytes that are free, and all."""

    @abstractmethod
    def allocate(self, size: int) -> int:
        """Return the address of `size` bytes of the GPU's memory; what is in them is undefined."""

    @abstractmethod
    def free(self, address: int) -> None:
        """Give memory back that no stream uses any more."""

    @abstractmethod
    def register(self, address: int, size: int) -> int:
        """Pin host memory, page aligned; return the address at which the GPU sees it."""

    @abstractmethod
    def unregister(self, address: int) -> None:
        """Unpin what was pinned at the host's `address`."""

    @abstractmethod
    def stream(self) -> int:
        """Make a queue of work; it waits for no other, not for the default stream either."""

    @abstractmethod
    def destroy_stream(self, stream: int) -> None:
        """Give it back; what it has still to do is done."""

    @abstractmethod
    def event(self, timed: bool = False) -> int:
        """Make a mark for a stream; who waits for it sleeps. timed: `elapsed_ms` can use it."""

    @abstractmethod
    def destroy_event(self, event: int) -> None:
        """Give it back."""

    @abstractmethod
    def copy_in(self, device: int, host: int, size: int, stream: int) -> None:
        """Queue a copy from the host to the GPU; pinned memory mustn't change until it is done."""

    @abstractmethod
    def copy_out(self, host: int, device: int, size: int, stream: int) -> None:
        """Queue a copy from the GPU to the host."""

    @abstractmethod
    def record(self, event: int, stream: int) -> None:
        """Set the mark behind all that `stream` has to do now."""

    @abstractmethod
    def wait(self, stream: int, event: int) -> None:
        """Let what comes next in `stream` wait for the mark; the caller doesn't."""

    @abstractmethod
    def synchronize(self, event: int) -> None:
        """Wait here for the mark; other threads of Python run meanwhile."""

    @abstractmethod
    def elapsed_ms(self, begin: int, end: int) -> float:
        """Return the time between two marks, timed, that have been waited for."""

    @abstractmethod
    def begin_capture(self, stream: int) -> None:
        """Note down what is queued from now on in `stream`, and in those that wait for it."""

    @abstractmethod
    def end_capture(self, stream: int) -> int:
        """End the capture, failed or not; return what was noted as a graph to launch."""

    @abstractmethod
    def launch_graph(self, graph: int, stream: int) -> None:
        """Queue all that the graph holds."""

    @abstractmethod
    def destroy_graph(self, graph: int) -> None:
        """Give it back; it isn't running."""

    def batches(self, items: Iterable[NDArray[Any]], size: int) -> Generator[int, None, None]:
        """Put `items`, arrays of one shape and dtype, into the GPU's memory, `size` at a time.

        Yields the address of each batch, valid until the next. What lacks in the last is filled up
        by repeating.
        """
        with ExitStack() as held:
            stream, address = self.stream(), 0
            held.callback(self.destroy_stream, stream)
            event = self.event()
            held.callback(self.destroy_event, event)
            for batch in _chunks(items, size):
                if not address:
                    address = self.allocate(batch.nbytes)
                    held.callback(self.free, address)
                self.copy_in(address, batch.ctypes.data, batch.nbytes, stream)
                self.record(event, stream)
                self.synchronize(event)
                yield address


def open_driver(name: Optional[str] = None) -> Driver:
    """Open the driver through the package `name` of ADAPTERS; None: the first that is there.

    Raises BackendUnavailable when there is no such package, no driver or no GPU.
    """
    for adapter in [name] if name else ADAPTERS:
        module = import_module(f"{__package__}.{ADAPTERS[adapter]}")
        try:
            driver: Driver = module.open_here()
        except ImportError as error:
            reason = str(error).splitlines()[0]
            missing = BackendUnavailable(f"{adapter} can't be loaded: {reason}. {module.BROUGHT}")
        else:
            return driver
    raise missing


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
