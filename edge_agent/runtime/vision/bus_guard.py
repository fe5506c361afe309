"""Survive a caller that truncates its shared memory while we read it.

Touching a mapped page beyond the end of its file raises SIGBUS in the touching thread (mmap(2)),
which ends the process. A size check before reading cannot close the gap, so the signal is caught:
when the address lies in a guarded mapping, that mapping is replaced by zeroed memory and marked as
tripped, and the instruction goes on. Any other SIGBUS kills the process as before.

CPython's own handlers run between bytecodes, too late for a fault that repeats at once; hence
sigaction(2) through ctypes. The handler runs at one place only: a memory access of ours to a
guarded mapping, never inside an allocator or lock, so that running Python there is sound.
"""

from __future__ import annotations

import ctypes
import signal
import weakref
from typing import Any, List

_SIGINFO_ADDRESS = 16  # offset of si_addr in siginfo_t on 64-bit Linux
_SA_SIGINFO, _SA_NODEFER = 0x4, 0x40000000
_PROT_READ, _PROT_WRITE = 0x1, 0x2
_MAP_PRIVATE, _MAP_FIXED, _MAP_ANONYMOUS = 0x2, 0x10, 0x20
_SIG_DFL = 0

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [
    ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long,
]  # fmt: skip
_Handler = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)


class _SigAction(ctypes.Structure):
    """`struct sigaction` of glibc, the same on x86_64 and aarch64."""

    _fields_ = (
        ("handler", ctypes.c_void_p),
        ("mask", ctypes.c_ulong * 16),
        ("flags", ctypes.c_int),
        ("restorer", ctypes.c_void_p),
    )


class Guard:
    """Watches the mapping of `size` bytes at `address` for as long as the guard lives."""

    def __init__(self, address: int, size: int, writable: bool) -> None:
        self.tripped = False
        self._start, self._end = address, address + size
        self._protection = _PROT_READ | (_PROT_WRITE if writable else 0)
        if not _guards:
            _install()
        _guards.append(weakref.ref(self, _guards.remove))

    def replaces(self, address: int) -> bool:
        """Put zeroed memory in place of the mapping if `address` lies in it."""
        if not self._start <= address < self._end:
            return False
        self.tripped = True
        placed = _libc.mmap(
            self._start,
            self._end - self._start,
            self._protection,
            _MAP_PRIVATE | _MAP_FIXED | _MAP_ANONYMOUS,
            -1,
            0,
        )
        return bool(placed == self._start)


_guards: List[Any] = []


def _on_bus_error(_number: int, info: int, _context: int) -> None:
    address = ctypes.c_void_p.from_address(info + _SIGINFO_ADDRESS).value or 0
    for reference in list(_guards):
        guard = reference()
        if guard is not None and guard.replaces(address):
            return
    _set_action(_SIG_DFL)  # not ours: the instruction repeats and the process ends


def _install() -> None:
    _set_action(ctypes.cast(_handler, ctypes.c_void_p).value or 0)


def _set_action(handler: int) -> None:
    action = _SigAction(handler=handler, flags=_SA_SIGINFO | _SA_NODEFER)
    if _libc.sigaction(int(signal.SIGBUS), ctypes.byref(action), None) != 0:
        raise OSError(ctypes.get_errno(), "sigaction(SIGBUS)")


_handler = _Handler(_on_bus_error)
