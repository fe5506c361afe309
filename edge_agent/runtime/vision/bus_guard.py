"""Mapped files that survive a caller who truncates them while we read.

Touching a mapped page beyond the end of its file raises SIGBUS in the touching thread (mmap(2)),
which ends the process. A size check before reading cannot close the gap, so the signal is caught:
when the address lies in a guarded mapping, that mapping is replaced by zeroed memory and marked as
tripped, and the instruction goes on. Any other SIGBUS kills the process as before.

CPython's own handlers run between bytecodes, too late for a fault that repeats at once; hence
sigaction(2) through ctypes. The handler runs at one place only: a memory access of ours to a
guarded mapping, never inside an allocator or lock, so that running Python there is sound.

mmap(2) itself goes through ctypes because Python's `mmap` keeps a descriptor open for each mapping
(before its `trackfd` of CPython 3.13).
"""

from __future__ import annotations

import ctypes
import os
import signal
import weakref
from typing import TYPE_CHECKING, Callable, Dict

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SIGINFO_ADDRESS = 16  # offset of si_addr in siginfo_t on 64-bit Linux
_SA_SIGINFO, _SA_NODEFER = 0x4, 0x40000000
_PROT_READ, _PROT_WRITE = 0x1, 0x2
_MAP_SHARED, _MAP_PRIVATE, _MAP_FIXED, _MAP_ANONYMOUS = 0x1, 0x2, 0x10, 0x20
_MAP_FAILED = ctypes.c_void_p(-1).value
_SIG_DFL = 0

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [
    ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long,
]  # fmt: skip
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_Handler = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)


class _SigAction(ctypes.Structure):
    """`struct sigaction` of glibc, the same on x86_64 and aarch64."""

    _fields_ = (
        ("handler", ctypes.c_void_p),
        ("mask", ctypes.c_ulong * 16),
        ("flags", ctypes.c_int),
        ("restorer", ctypes.c_void_p),
    )


class GuardedMapping:
    """`size` bytes of a file from `start` on, a multiple of the page size, shared with it.

    Mapped and guarded until the last array made of it is gone; `when_gone` then gets the size, on
    any thread and perhaps within any lock. The descriptor may be closed. Raises OSError.
    """

    def __init__(
        self,
        descriptor: int,
        start: int,
        size: int,
        writable: bool,
        when_gone: Callable[[int], object],
    ) -> None:
        self.tripped = False
        self._size, self._when_gone = size, when_gone
        self._protection = _PROT_READ | (_PROT_WRITE if writable else 0)
        self._address = 0
        address = _libc.mmap(None, size, self._protection, _MAP_SHARED, descriptor, start)
        if address == _MAP_FAILED:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
        if not _guarded:
            _install()
        self._address = address
        _guarded[address] = weakref.ref(self)
        # An array made of it holds it (https://numpy.org/doc/stable/reference/arrays.interface.html).
        self.__array_interface__ = {
            "version": 3, "typestr": "|u1", "shape": (size,), "data": (address, not writable),
        }  # fmt: skip

    def __del__(self, unmap: Callable[[int, int], object] = _libc.munmap) -> None:
        """Unmap; from before on the address is no longer guarded, for it may be used again."""
        if self._address:
            _guarded.pop(self._address, None)
            unmap(self._address, self._size)
        self._when_gone(self._size)

    def bytes(self) -> NDArray[np.uint8]:
        """Return them, uint8 of shape (size,), not copied."""
        return np.asarray(self)

    def replaces(self, address: int) -> bool:
        """Put zeroed memory in place of the mapping if `address` lies in it."""
        if not self._address <= address < self._address + self._size:
            return False
        self.tripped = True
        flags = _MAP_PRIVATE | _MAP_FIXED | _MAP_ANONYMOUS
        placed = _libc.mmap(self._address, self._size, self._protection, flags, -1, 0)
        return bool(placed == self._address)


_guarded: Dict[int, weakref.ReferenceType[GuardedMapping]] = {}  # by address


def _on_bus_error(_number: int, info: int, _context: int) -> None:
    address = ctypes.c_void_p.from_address(info + _SIGINFO_ADDRESS).value or 0
    for reference in list(_guarded.values()):
        mapping = reference()
        if mapping is not None and mapping.replaces(address):
            return
    _set_action(_SIG_DFL)  # not ours: the instruction repeats and the process ends


def _install() -> None:
    _set_action(ctypes.cast(_handler, ctypes.c_void_p).value or 0)


def _set_action(handler: int) -> None:
    action = _SigAction(handler=handler, flags=_SA_SIGINFO | _SA_NODEFER)
    if _libc.sigaction(int(signal.SIGBUS), ctypes.byref(action), None) != 0:
        raise OSError(ctypes.get_errno(), "sigaction(SIGBUS)")


_handler = _Handler(_on_bus_error)
