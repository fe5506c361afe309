"""Tells whether a process still lives, when its number may be another's by now."""

from __future__ import annotations

import os
from pathlib import Path

PROC = Path("/proc")


def name() -> str:
    """Name this process as no other is named, before or after a restart of the machine."""
    return _name_of(str(os.getpid()))


def is_alive(named: str) -> bool:
    """Whether the process that got this name has not ended."""
    return _name_of(named.partition(" ")[0]) == named


def _name_of(number: str) -> str:
    """Return number, time of start in ticks since boot, and which boot; empty when it is gone."""
    try:
        # After the command, which may hold anything, come the state (3rd field) and the rest.
        fields = (PROC / number / "stat").read_text().rpartition(")")[2].split()
        boot = (PROC / "sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else f"{number} {fields[19]} {boot}"
