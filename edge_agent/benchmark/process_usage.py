"""The agent's process as the kernel sees it: who listens on a socket, CPU time, peak memory."""

from __future__ import annotations

import os
import socket
import struct
from pathlib import Path
from typing import Optional

TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")
CONNECT_WITHIN_S = 5.0


def listening_pid(address: str) -> Optional[int]:
    """Return the process that listens on the Unix socket `address` (SO_PEERCRED, unix(7)).

    None for other addresses, and for a process outside this container or one we may not look at.
    """
    if not address.startswith("unix:"):
        return None
    path = address[len("unix:") :]
    path = path[len("//") :] if path.startswith("//") else path
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(CONNECT_WITHIN_S)
        try:
            probe.connect(path)
            content = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        except OSError:
            return None
    pid = int(struct.unpack("3i", content)[0])
    return pid if pid > 0 and Path(f"/proc/{pid}/stat").exists() else None


def cpu_seconds(pid: int) -> float:
    """Return user and system time of all threads of `pid` so far (proc(5)), in whole ticks."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_A_SECOND


def peak_rss_mib(pid: int) -> float:
    """Return the largest resident set of `pid` so far."""
    return _memory_mib(pid, "VmHWM:")


def rss_mib(pid: int) -> float:
    """Return the resident set of `pid` now."""
    return _memory_mib(pid, "VmRSS:")


def _memory_mib(pid: int, field: str) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field):
            return round(int(line.split()[1]) / 1024, 1)
    return 0.0
