"""POSIX shared memory of callers: mapped once, checked on every call, never unlinked.

On Linux a POSIX shared memory object is a file under /dev/shm (shm_overview(7)); opening that file
is what shm_open does, without the resource tracker of `multiprocessing.shared_memory`, which before
CPython 3.13 would unlink the caller's segment when this process ends.
"""

from __future__ import annotations

import errno
import mmap
import os
import stat
import threading
import time
from typing import TYPE_CHECKING, Dict, Optional, Tuple

import numpy as np

from edge_agent.errors import InvalidFrame
from edge_agent.runtime.vision import bus_guard
from edge_agent.types import SharedMemoryHandle

if TYPE_CHECKING:
    from numpy.typing import NDArray

FOLDER = "/dev/shm"
KEEP_UNUSED_S = 5.0
KEEP_AT_MOST = 256

Identity = Tuple[int, int, int]  # device, inode, size


class Segment:
    """One mapped shared memory object; unmapped when the last view of it is gone."""

    def __init__(self, name: str, descriptor: int, size: int, writable: bool) -> None:
        access = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
        self._bytes: NDArray[np.uint8] = np.frombuffer(
            mmap.mmap(descriptor, size, mmap.MAP_SHARED, access), np.uint8
        )
        self._name = name
        self._guard = bus_guard.Guard(self._bytes.ctypes.data, size, writable)

    @property
    def lost(self) -> bool:
        """Whether the object was cut short under the mapping."""
        return self._guard.tripped

    def part(self, handle: SharedMemoryHandle) -> NDArray[np.uint8]:
        """Return the bytes `handle` names. Raises InvalidFrame when they are not all there."""
        end = handle.offset + handle.size
        if handle.size == 0 or end > self._bytes.size:
            raise InvalidFrame(
                f"Shared memory {handle.name!r} has {self._bytes.size} bytes; the handle names "
                f"{handle.size} bytes from offset {handle.offset} on."
            )
        return self._bytes[handle.offset : end]

    def check(self) -> None:
        """Raise InvalidFrame when the object was cut short under the mapping."""
        if self._guard.tripped:
            raise InvalidFrame(
                f"Shared memory {self._name!r} was truncated while the frame was in work; "
                "keep it unchanged until the reply."
            )


class Segments:
    """Mappings by name, reused while the object behind the name is the same one, size included."""

    def __init__(self) -> None:
        self._kept: Dict[Tuple[str, bool], Tuple[Identity, Segment, float]] = {}
        self._lock = threading.Lock()

    def open(self, handle: SharedMemoryHandle, writable: bool) -> Segment:
        """Return a mapping of the object `handle` names. Raises InvalidFrame: why there is none."""
        name = handle.name[1:] if handle.name.startswith("/") else handle.name
        if not name or "/" in name or "\0" in name or name in (".", ".."):
            raise InvalidFrame(f"{handle.name!r} isn't a name of a POSIX shared memory object.")
        with self._lock:
            known = self._kept.get((name, writable))
            if known is not None and not known[1].lost and known[0] == _identity(name):
                identity, segment = known[:2]
            else:
                identity, segment = _map(name, writable)
            self._kept[name, writable] = (identity, segment, time.monotonic())
            if len(self._kept) > KEEP_AT_MOST:
                del self._kept[min(self._kept, key=lambda key: self._kept[key][2])]
        return segment

    def sweep(self) -> None:
        """Forget mappings unused for KEEP_UNUSED_S, so that unlinked segments free their memory."""
        oldest = time.monotonic() - KEEP_UNUSED_S
        with self._lock:
            for key in [key for key, kept in self._kept.items() if kept[2] < oldest]:
                del self._kept[key]


def _identity(name: str) -> Optional[Identity]:
    """Return what is behind the name now; None when that can't be told."""
    try:
        facts = os.lstat(f"{FOLDER}/{name}")
    except OSError:
        return None
    return facts.st_dev, facts.st_ino, facts.st_size


def _map(name: str, writable: bool) -> Tuple[Identity, Segment]:
    descriptor = _open(name, writable)
    try:
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode):
            raise InvalidFrame(f"{name!r} isn't a shared memory object.")
        if facts.st_size == 0:
            raise InvalidFrame(f"Shared memory {name!r} has 0 bytes.")
        identity = facts.st_dev, facts.st_ino, facts.st_size
        return identity, Segment(name, descriptor, facts.st_size, writable)
    except (ValueError, OSError) as error:  # ValueError: truncated since its size was read
        raise InvalidFrame(f"Shared memory {name!r} can't be mapped: {error}.") from None
    finally:
        os.close(descriptor)


def _open(name: str, writable: bool) -> int:
    # O_NONBLOCK: a FIFO put in the folder must not hold us; O_NOFOLLOW: nor a link lead us out.
    flags = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        return os.open(f"{FOLDER}/{name}", flags | (os.O_RDWR if writable else os.O_RDONLY))
    except OSError as error:
        why = {
            errno.ENOENT: "doesn't exist",
            errno.EACCES: f"isn't {'writable' if writable else 'readable'} for user {os.geteuid()};"
            " create it with a mode that lets the agent in",
            errno.ENAMETOOLONG: "has too long a name",
        }.get(error.errno or 0, f"can't be opened ({error.strerror}): not a shared memory object")
        raise InvalidFrame(f"Shared memory {name!r} {why}.") from None
