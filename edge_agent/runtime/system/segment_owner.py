"""Whose a client's shared memory is: its name says so, and when that process is gone it is removed.

A process is named by its PID namespace, its id there and when it started (proc_pid_stat(5)). What
another namespace owns is left alone: its ids say nothing here. So is what others name in their way.
"""

from __future__ import annotations

import os
import re
import uuid
from contextlib import suppress
from pathlib import Path
from typing import List

FOLDER = Path("/dev/shm")
NAME = re.compile(r"edge-agent-([0-9]+)-([0-9]+)-([0-9]+)-[0-9a-f]{32}")
PROC = Path("/proc")
# Of /proc/PID/stat, counted from behind the name, which may hold anything.
STATE, THREADS, START = 0, 17, 19


def new_name() -> str:
    """Return a name for a segment of this process that nobody can guess."""
    own = f"{_namespace()}-{os.getpid()}-{_facts(os.getpid())[START]}-" if _is_own_proc() else ""
    return f"edge-agent-{own}{uuid.uuid4().hex}"


def sweep() -> None:
    """Remove the segments whose process is gone, where this user may."""
    if not _is_own_proc():
        return
    namespace = _namespace()
    with suppress(OSError), os.scandir(FOLDER) as entries:
        for entry in entries:
            named = NAME.fullmatch(entry.name)
            if named is None or int(named[1]) != namespace:
                continue
            if not _lives(int(named[2]), named[3]):
                with suppress(OSError):
                    (FOLDER / entry.name).unlink()


def _is_own_proc() -> bool:
    """Whether /proc shows the PID namespace of this process."""
    try:
        return os.readlink(PROC / "self") == str(os.getpid())
    except OSError:
        return False


def _namespace() -> int:
    return (PROC / "self" / "ns" / "pid").stat().st_ino


def _lives(pid: int, start: str) -> bool:
    """Whether the process is there; yes as well where that can't be found out."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    try:
        facts = _facts(pid)
    except OSError:  # another user's, where /proc hides them
        return True
    has_ended = facts[STATE] in ("Z", "X") and int(facts[THREADS]) <= 1
    return facts[START] == start and not has_ended


def _facts(pid: int) -> List[str]:
    return (PROC / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()
