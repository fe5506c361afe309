"""Power mode, clocks and temperatures as far as the machine tells them; all of it on Jetson.

Sources: sysfs (thermal, cpufreq, devfreq) and nvpmodel's state and configuration in JetPack.
"""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path
from typing import Any, Dict, Iterator, Optional, Tuple

_CPU = "cpu[0-9]*/cpufreq/scaling_cur_freq"


def machine() -> Dict[str, Any]:
    """Return what does not change while the benchmark runs."""
    cores = len(os.sched_getaffinity(0))
    return {"cores": cores, "architecture": platform.machine(), "python": platform.python_version()}


def state(root: Path = Path("/")) -> Dict[str, Any]:
    """Return what is known now; a group that this machine does not tell is left out."""
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
