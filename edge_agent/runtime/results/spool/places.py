"""Where a journal can lie: in memory, or else beside the outbox.

/dev/shm survives the death of a process, not a power cut, wears no disk, and is there for services
and for root alike (/run is root's, $XDG_RUNTIME_DIR a logged-in user's). Every user may create
files in it, so the journal has a folder of its own there, which only the agent's user may open. One
that another user has made is not used; neither can it be when there is no /dev/shm, or no room.
"""

from __future__ import annotations

import hashlib
import logging
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import List, NamedTuple

log = logging.getLogger(__name__)

SHARED_MEMORY = Path("/dev/shm")


class Place(NamedTuple):
    """A folder for one journal and nothing else: `name` in `parent`."""

    parent: Path
    name: str

    @property
    def path(self) -> Path:
        """Return the whole path, for people."""
        return self.parent / self.name


def places(folder: Path) -> List[Place]:
    """Return where the journal of the outbox in `folder` may lie, the best first."""
    in_memory = Place(SHARED_MEMORY, f"edge-agent-journal-{identity(folder)}")
    return [in_memory, Place(folder, "journal")]


def identity(folder: Path) -> str:
    """Tell folders apart, also those that containers see under the same path."""
    try:
        facts = folder.stat()
        name = f"{facts.st_dev}:{facts.st_ino}"
    except OSError:
        name = str(folder.resolve())
    return hashlib.sha256(name.encode()).hexdigest()[:16]


def remove_pickled(folder: Path) -> None:
    """Remove this user's journal of an earlier version unread: reading it could run code."""
    name = f"edge-agent-results-{identity(folder)}"
    for path in (parent / name for parent in (SHARED_MEMORY, folder)):
        with suppress(OSError):
            facts = os.lstat(path)
            if stat.S_ISREG(facts.st_mode) and facts.st_uid == os.geteuid():
                path.unlink()
                log.warning(
                    "%s, a journal of an earlier version (%d bytes), isn't safe to read and was "
                    "removed; results in it that were not stored are lost.",
                    path,
                    facts.st_size,
                )
