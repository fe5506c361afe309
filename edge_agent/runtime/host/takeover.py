"""One agent a work folder: the one that the nucleus starts takes the place of one that outlived it.

The classic nucleus, when it was killed, leaves its components' processes behind, and starts new
ones. Systemd ends lite's.
"""

from __future__ import annotations

import fcntl
import logging
import os
import signal
import struct
import time
from contextlib import suppress
from pathlib import Path
from typing import Optional

from edge_agent.errors import InvalidConfiguration

log = logging.getLogger(__name__)

FILE_NAME = "agent.lock"
FLOCK = "hhqqi"  # struct flock: type, whence, start, length, process
WITHIN_S = 10.0
LOOK_EVERY_S = 0.05


def take_over(work: Path) -> Optional[int]:
    """Lock the work folder until this process ends, and end the agent that has it; return the lock.

    A folder that can't be written isn't locked. Raises InvalidConfiguration when that agent
    doesn't end.
    """
    try:
        lock = os.open(work / FILE_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        log.warning("The work folder %s can't be written (%s).", work, error.strerror)
        return None
    asked, end = 0, time.monotonic() + WITHIN_S
    while not _locked(lock):
        holder = _holder(lock)
        if holder not in (0, asked):
            log.warning("An agent that outlived its nucleus, process %d, is asked to end.", holder)
            with suppress(OSError):  # it has ended meanwhile, or is another user's
                os.kill(holder, signal.SIGTERM)
            asked = holder
        if time.monotonic() > end:
            os.close(lock)
            raise InvalidConfiguration(
                f"--greengrass {work}: another agent, process {holder}, uses this folder and "
                "doesn't end. End it."
            )
        time.sleep(LOOK_EVERY_S)
    return lock


def _locked(lock: int) -> bool:
    try:
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _holder(lock: int) -> int:
    """Return the process that has it, by the kernel; 0: none, or one of another container."""
    asked = struct.pack(FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    kind, *_, process = struct.unpack(FLOCK, fcntl.fcntl(lock, fcntl.F_GETLK, asked))
    return int(process) if kind != fcntl.F_UNLCK else 0
