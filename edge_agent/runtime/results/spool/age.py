"""How long events wait, counted in time that really passed, whatever the wall clock said.

In memory the moment at which an event was made is an uptime. On disk uptimes of many boots follow
each other: what lies between two boots isn't known, and doesn't count. A note says which uptime of
which boot stands for which second on disk. The first is the Unix time at which the outbox was made.
"""

from __future__ import annotations

import json
import math
from typing import Dict, Optional

from edge_agent.runtime.system.machine_clock import MachineClock

NOTE = "age"
EARLIER_NOTE = "clock_correction_s"  # of versions that go by the wall clock: how far it is ahead


def offset_s(note: str, clock: MachineClock) -> Optional[float]:
    """Return what is added to an uptime on disk; None: nothing is known of what waits there."""
    try:
        known = json.loads(note)
        boot, uptime_s, on_disk_s = known["boot"], known["uptime_s"] + 0.0, known["on_disk_s"] + 0.0
    except (ValueError, TypeError, LookupError):
        return None
    now = clock.uptime_s()
    passed_s = now - uptime_s if boot and boot == clock.boot_id() else 0.0
    offset = on_disk_s + max(passed_s, 0.0) - now
    return offset if math.isfinite(offset) else None


def notes(offset: float, clock: MachineClock) -> Dict[str, str]:
    """Return what `offset_s` reads in the next run, and what an earlier version does."""
    uptime_s = clock.uptime_s()
    known = {"boot": clock.boot_id(), "uptime_s": uptime_s, "on_disk_s": uptime_s + offset}
    correction_s = clock.wall() - uptime_s - offset
    return {NOTE: json.dumps(known), EARLIER_NOTE: str(round(correction_s))}
