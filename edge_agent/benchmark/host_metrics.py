"""What the machine reports: power mode, clocks, temperatures; CPU time and memory of a process.

Sources: sysfs (thermal, cpufreq, devfreq), nvpmodel's state and configuration in JetPack, proc(5).
A Jetson reports all of it.
"""

from __future__ import annotations

import os
import platform
import re
import socket
import struct
from pathlib import Path
from typing import Dict, Iterator, Optional, Tuple

from edge_agent.runtime.system import resources

TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")
CONNECT_WITHIN_S = 5.0
_CPU = "cpu[0-9]*/cpufreq/scaling_cur_freq"


def machine() -> Dict[str, object]:
    """Return what does not change while the benchmark runs."""
    return {
        "cores": resources.cores(),
        "architecture": platform.machine(),
        "python": platform.python_version(),
    }


def state(root: Path = Path("/")) -> Dict[str, object]:
    """Return what is known now; what this machine does not report is left out."""
    groups = {
        "power_mode": _power_mode(root),
        "cpu_mhz": [khz // 1000 for _, khz in _numbers(root, "sys/devices/system/cpu", _CPU)],
        "device_mhz": {
            path.parent.name: hertz // 1_000_000
            for path, hertz in _numbers(root, "sys/class/devfreq", "*/cur_freq")
        },
        "temperature_c": dict(_temperatures(root)),
    }
    return {name: value for name, value in groups.items() if value}


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


def _power_mode(root: Path) -> Optional[str]:
    found = re.search(r"pmode:(\d+)", _text(root / "var/lib/nvpmodel/status"))
    if not found:
        return None
    number = int(found.group(1))
    modes = re.findall(r"POWER_MODEL ID=(\d+) NAME=(\S+)", _text(root / "etc/nvpmodel.conf"))
    names: Dict[int, str] = {int(mode): name for mode, name in modes}
    return names.get(number, str(number))


def _temperatures(root: Path) -> Iterator[Tuple[str, float]]:
    zones = "sys/devices/virtual/thermal"
    for path, milli_c in _numbers(root, zones, "thermal_zone*/temp"):
        yield _text(path.parent / "type").strip() or path.parent.name, milli_c / 1000


def _numbers(root: Path, folder: str, pattern: str) -> Iterator[Tuple[Path, int]]:
    for path in sorted((root / folder).glob(pattern)):
        try:
            yield path, int(_text(path))
        except ValueError:
            continue  # a sensor that is switched off cannot be read


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _memory_mib(pid: int, field: str) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field):
            return round(int(line.split()[1]) / 1024, 1)
    return 0.0
