"""Whether a model fits into memory, and what the heap keeps of what was freed."""

from __future__ import annotations

import ctypes
from typing import Optional

from edge_agent.errors import OutOfMemory
from edge_agent.runtime.system import resources

MIB = 1024 * 1024
_ENGINE_BYTES = 48 * MIB  # an engine's library and its smallest buffers


def free_bytes(limit_mib: Optional[int]) -> int:
    """Return what this process may still take within `limit_mib`, its own; not below 0."""
    free = resources.available_bytes()
    if limit_mib is not None:
        free = min(free, limit_mib * MIB - resources.resident_bytes())
    return max(free, 0)


def check(name: str, model_bytes: int, limit_mib: Optional[int]) -> None:
    """Raise OutOfMemory when a model of `model_bytes` on disk will hardly fit.

    Loading holds the file and the engine's own copy of its weights at the same time.
    """
    needed = 2 * model_bytes + _ENGINE_BYTES
    free = free_bytes(limit_mib)
    if needed > free:
        raise OutOfMemory(
            f"Model {name!r} needs about {needed // MIB} MiB to load; {free // MIB} MiB "
            "are free. Stop another model, or raise models.memory_limit_mib if it is set."
        )


def keep_heap() -> None:
    """Let glibc hold freed frames on its heap instead of returning their pages (mallopt(3)).

    By default each message of some MiB is mapped again and every page of it faults in again, which
    costs more than all copies of the message together. Call before the first thread starts.
    """
    libc = ctypes.CDLL(None)
    for parameter, value in (
        (-3, 32 * MIB),  # M_MMAP_THRESHOLD, the largest value glibc takes
        (-1, 64 * MIB),  # M_TRIM_THRESHOLD
        (-8, 1),  # M_ARENA_MAX: one heap to keep, not one a thread
    ):
        libc.mallopt(parameter, value)


def give_back() -> None:
    """Return freed heap pages to the system (malloc_trim(3))."""
    ctypes.CDLL(None).malloc_trim(0)
