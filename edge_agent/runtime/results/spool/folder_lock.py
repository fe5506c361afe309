"""One agent and one user a folder.

Two agents would number the same results and deliver them twice; another user could put rows into
the outbox, or links in the way of its files.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path
from typing import Optional

from edge_agent.errors import InvalidConfiguration
from edge_agent.runtime.system import private_files

SETTING = "results.folder"
LOCK = "outbox.lock"
NAMES = (
    "outbox.db", LOCK, "status.json", "dead-letters.jsonl", "decisions.json", "versions.json",
    "running.json", "journal",
)  # fmt: skip


def check(folder: Path) -> None:
    """Make the folder and close it to other users, without locking it.

    Raises InvalidConfiguration when another user may write in it.
    """
    with suppress(OSError):  # one that can't be made can't be misused
        os.close(private_files.open_folder(SETTING, folder, _is_ours))


class FolderLock:
    """Holds a folder from `take` to `release`, or until the process ends."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file: Optional[int] = None

    def take(self) -> None:
        """Make the folder, close it to other users and lock it; a second call does nothing.

        Raises InvalidConfiguration when another process has it or another user may write in it,
        OSError when it can't be made.
        """
        if self._file is None:
            folder = private_files.open_folder(SETTING, self._folder, _is_ours)
            try:  # not on the folder, which every user who may read it could lock
                self._file = private_files.open_file(folder, LOCK, os.O_RDWR | os.O_CREAT)
            finally:
                os.close(folder)
            self._lock()

    def release(self) -> None:
        """Release the folder."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _lock(self) -> None:
        assert self._file is not None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self.release()
            raise InvalidConfiguration(
                f"{SETTING} {self._folder} is in use by another agent. Give each its own folder."
            ) from None


def _is_ours(name: str) -> bool:
    return name.startswith(NAMES)
