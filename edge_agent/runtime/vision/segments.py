"""POSIX shared memory of callers: mapped once, checked on every call, never unlinked.

On Linux a POSIX shared memory object is a file under /dev/shm (shm_overview(7)); opening that file
is what shm_open does, without the resource tracker of `multiprocessing.shared_memory`, which before
CPython 3.13 would unlink the caller's segment when this process ends.

Of an object only what a handle names is mapped, rounded out to chunks, so that a camera that goes
round in a ring of frames comes back to the same few mappings.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
import time
from collections import deque
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Callable, Deque, Dict, List, Optional, Tuple

from edge_agent.errors import InvalidFrame, OutOfDescriptors, OutOfMemory
from edge_agent.protocol import LARGEST_FRAME_BYTES
from edge_agent.runtime.vision.bus_guard import GuardedMapping
from edge_agent.runtime.vision.segment_access import SegmentAccess
from edge_agent.types import SharedMemoryHandle

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FOLDER = "/dev/shm"
NAME_BYTES = 255
# How names of POSIX semaphores begin (sem_overview(7)), and of journals that versions of the agent
# up to 1.3.0 left there.
RESERVED = ("sem.", "edge-agent-results-")
MIB = 1024 * 1024
CHUNK_BYTES = 16 * MIB
WINDOW_BYTES = LARGEST_FRAME_BYTES  # of a frame or mask: no call uses more of a handle
# Room for 64 cameras with the largest frames and masks, and for rings; a tenth of what the smallest
# kernels (39 bits of address) have.
MOST_MAPPED_BYTES = 16 * 1024 * MIB
KEEP_AT_MOST = 1024
KEEP_UNUSED_S = 5.0

# The first fields of os.stat_result: mode, inode, device, links, user, group, size.
Identity = Tuple[float, ...]
FACTS, SIZE = 7, 6
Key = Tuple[Identity, bool, int, int]  # object, writable, first and last chunk


class Segment:
    """A mapped window of a shared memory object; unmapped when the last view of it is gone."""

    def __init__(self, name: str, mapping: GuardedMapping, start: int) -> None:
        self.mapping = mapping
        self.used = time.monotonic()  # when last
        self._name = name
        self._bytes = mapping.bytes()
        self.start, self.end = start, start + self._bytes.size  # in the object

    def part(self, handle: SharedMemoryHandle) -> NDArray[np.uint8]:
        """Return what the handle it was opened for names, at most WINDOW_BYTES."""
        begin = handle.offset - self.start
        return self._bytes[begin : begin + min(handle.size, WINDOW_BYTES)]

    def check(self) -> None:
        """Raise InvalidFrame when the object was cut short under the mapping."""
        if self.mapping.tripped:
            raise InvalidFrame(
                f"Shared memory {self._name!r} was truncated while the agent used it; keep "
                "it unchanged until the answer has come."
            )


class Segments:
    """Mapped windows, used again while the object behind the name is the same one.

    All that is mapped, in use by calls or kept for later ones, stays below `most_bytes`; what was
    not used for the longest time goes first. Safe on any thread.
    """

    def __init__(
        self, access: Optional[SegmentAccess] = None, most_bytes: int = MOST_MAPPED_BYTES
    ) -> None:
        self._access = access or SegmentAccess()
        self._most_bytes = most_bytes
        self._kept: Dict[Key, Segment] = {}
        self._mapped_bytes = 0
        # Sizes of mappings that are gone: an append may come within the lock, on any thread.
        self._unmapped: Deque[int] = deque()
        self._lock = threading.Lock()

    def open(self, handle: SharedMemoryHandle, writable: bool) -> Segment:
        """Return a mapping of what `handle` names.

        Raises InvalidFrame: why there is none; OutOfDescriptors, OutOfMemory.
        """
        return self.open_parts((handle,), writable)[0]

    def open_parts(
        self, handles: Tuple[SharedMemoryHandle, ...], writable: bool
    ) -> Tuple[Segment, ...]:
        """Return mappings of parts of one object, which is looked at once. Raises as `open`."""
        found = self._find(handles, writable)
        if found is None:
            return tuple([self._map(handle, writable) for handle in handles])
        return found

    def sweep(self) -> None:
        """Forget mappings unused for KEEP_UNUSED_S, so that unlinked segments free their memory."""
        oldest = time.monotonic() - KEEP_UNUSED_S
        with self._lock:
            for key in [key for key, segment in self._kept.items() if segment.used < oldest]:
                del self._kept[key]

    def _find(
        self, handles: Tuple[SharedMemoryHandle, ...], writable: bool
    ) -> Optional[Tuple[Segment, ...]]:
        """Return what is mapped already; None unless it is all there."""
        try:
            identity = os.lstat(_path(handles[0].name))[:FACTS]
        except OSError:
            return None
        found: List[Segment] = []
        segment: Optional[Segment] = None
        with self._lock:
            for handle in handles:
                _, size, offset = handle
                # most often the window of the frame has the mask's place as well
                if segment is None or not segment.start <= offset < offset + size <= segment.end:
                    segment = self._kept.get(_key(handle, identity, writable))
                    if segment is None or segment.mapping.tripped:
                        return None
                    if not (offset < offset + size <= segment.end or _fits(handle, identity[SIZE])):
                        return None
                    segment.used = time.monotonic()
                found.append(segment)
        return tuple(found)

    def _map(self, handle: SharedMemoryHandle, writable: bool) -> Segment:
        name = handle.name
        descriptor = _open(name, writable)
        try:
            facts = os.fstat(descriptor)
            _check_kind(name, facts)
            self._access.check(name, descriptor, facts, writable)
            _check_range(handle, facts.st_size)
            key = _key(handle, facts[:FACTS], writable)
            with self._lock:
                known = self._kept.get(key)
                if known is not None and not known.mapping.tripped:
                    return known
            start, end = key[2] * CHUNK_BYTES, min((key[3] + 1) * CHUNK_BYTES, facts.st_size)
            self._make_room(end - start)
            mapping = _mapped(name, descriptor, start, end - start, writable, self._unmapped.append)
        finally:
            os.close(descriptor)
        segment = Segment(name, mapping, start)
        with self._lock:
            self._kept[key] = segment
        return segment

    def _make_room(self, size: int) -> None:
        """Count `size` bytes as mapped, and forget what that leaves no room for."""
        with self._lock:
            self._count_unmapped()
            while self._kept and (
                self._mapped_bytes + size > self._most_bytes or len(self._kept) >= KEEP_AT_MOST
            ):
                self._forget_coldest()
                self._count_unmapped()
            if self._mapped_bytes + size > self._most_bytes:
                raise OutOfMemory(
                    f"Calls in work use {self._mapped_bytes // MIB} MiB of shared memory; at most "
                    f"{self._most_bytes // MIB} MiB can be mapped. Call less often."
                )
            self._mapped_bytes += size

    def _forget_coldest(self) -> None:
        """Forget a quarter, so that they are sorted once in a while only."""
        by_use = sorted(self._kept, key=lambda key: self._kept[key].used)
        for key in by_use[: len(by_use) // 4 + 1]:
            del self._kept[key]

    def _count_unmapped(self) -> None:
        while self._unmapped:
            self._mapped_bytes -= self._unmapped.popleft()


@lru_cache(maxsize=KEEP_AT_MOST)
def _path(name: str) -> bytes:
    """Return the object's file. Raises InvalidFrame for what can't be a name of one."""
    plain = name[1:] if name.startswith("/") else name
    encoded = plain.encode()
    if len(encoded) > NAME_BYTES:
        raise InvalidFrame(
            f"The name of the shared memory has {len(encoded)} bytes; at most {NAME_BYTES} are "
            "possible."
        )
    if "/" in plain or "\0" in plain or plain in ("", ".", "..") or plain.startswith(RESERVED):
        raise InvalidFrame(f"{name!r} isn't a name of a POSIX shared memory object.")
    return FOLDER.encode() + b"/" + encoded


def _key(handle: SharedMemoryHandle, identity: Identity, writable: bool) -> Key:
    last = handle.offset + min(handle.size, WINDOW_BYTES) - 1
    return identity, writable, handle.offset // CHUNK_BYTES, last // CHUNK_BYTES


def _fits(handle: SharedMemoryHandle, size: float) -> bool:
    return 0 < handle.size <= size - handle.offset


def _open(name: str, writable: bool) -> int:
    # O_NONBLOCK: a FIFO put in the folder must not hold us; O_NOFOLLOW: nor a link lead us out.
    flags = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        return os.open(_path(name), flags | (os.O_RDWR if writable else os.O_RDONLY))
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            raise OutOfDescriptors(
                f"Shared memory {name!r} can't be opened: the agent has too many files and "
                "connections open. Close connections that aren't used, and try again."
            ) from None
        why = {
            errno.ENOENT: "doesn't exist",
            errno.EACCES: f"isn't {'writable' if writable else 'readable'} for user {os.geteuid()};"
            " create it with a mode that lets the agent in",
        }.get(error.errno or 0, f"can't be opened ({error.strerror}): not a shared memory object")
        raise InvalidFrame(f"Shared memory {name!r} {why}.") from None


def _check_kind(name: str, facts: os.stat_result) -> None:
    """Raise InvalidFrame unless it is a plain file of the folder's own, under one name only."""
    if not stat.S_ISREG(facts.st_mode) or facts.st_dev != Path(FOLDER).stat().st_dev:
        raise InvalidFrame(f"{name!r} isn't a shared memory object.")
    if facts.st_nlink != 1:
        raise InvalidFrame(
            f"{name!r} isn't a shared memory object: it has {facts.st_nlink} names (hard links), "
            "expected one."
        )


def _check_range(handle: SharedMemoryHandle, size: int) -> None:
    if size == 0:
        raise InvalidFrame(f"Shared memory {handle.name!r} has 0 bytes.")
    if not _fits(handle, size):
        raise InvalidFrame(
            f"Shared memory {handle.name!r} has {size} bytes; the handle names "
            f"{handle.size} bytes from offset {handle.offset} on."
        )


def _mapped(
    name: str,
    descriptor: int,
    start: int,
    size: int,
    writable: bool,
    when_gone: Callable[[int], object],
) -> GuardedMapping:
    try:
        return GuardedMapping(descriptor, start, size, writable, when_gone)
    except OSError as error:
        if error.errno == errno.ENOMEM:
            raise OutOfMemory(f"There is no memory left to map shared memory {name!r}.") from None
        raise InvalidFrame(f"Shared memory {name!r} can't be mapped: {error.strerror}.") from None
