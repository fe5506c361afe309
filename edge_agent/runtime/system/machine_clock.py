"""The machine's clocks: what the wall clock shows, and how much time really passes.

A device without a battery for its clock boots in 1970, or where it was switched off, and the clock
is set while the agent runs: the wall clock dates, but measures nothing.
"""

from __future__ import annotations

import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Callable, NamedTuple

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
EARLIEST = datetime(2024, 1, 1, tzinfo=timezone.utc).timestamp()  # the agent is younger


def uptime_s() -> float:
    """Return seconds since the machine was booted, in which it was suspended as well."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def boot_id() -> str:
    """Return a name that no other boot has, "" when there is none."""
    try:
        return BOOT_ID.read_text().strip()
    except OSError:
        return ""


class MachineClock(NamedTuple):
    """The clocks of one machine. `wall` in Unix seconds."""

    wall: Callable[[], float] = time.time
    uptime_s: Callable[[], float] = uptime_s
    boot_id: Callable[[], str] = boot_id


THIS_MACHINE = MachineClock()


def clock_error(now: float) -> str:
    """Say that the wall clock is wrong, a sentence, when `now` can't be; "": it may be right."""
    if now >= EARLIEST:
        return ""
    shown = datetime.fromtimestamp(now, timezone.utc).strftime("%Y-%m-%d %H:%M")
    return f"The clock of this device is wrong: it shows {shown} UTC. Set it (NTP, or date -s)."
