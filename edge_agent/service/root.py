"""The folder below which a service keeps everything: closed to other users, and of one service."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from edge_agent.errors import InvalidConfiguration
from edge_agent.runtime.system import private_files
from edge_agent.service.records.database import Records

RECORDS, AUDIT_LOG, LOCK = "records.db", "audit.log", "service.lock"
FOLDERS = ("buckets", "models", "work")


class ServiceRoot:
    """The folder that `--root` names; made with mode 0700 when it is missing."""

    def __init__(self, folder: Path) -> None:
        """Close the folder to others; InvalidConfiguration when another user may write in it."""
        self.folder = folder.resolve()
        opened = private_files.open_folder("--root", folder, _is_ours)
        try:  # with mode 0600, which SQLite gives to the files beside it
            os.close(private_files.open_file(opened, RECORDS, os.O_RDWR | os.O_CREAT))
            self._lock = private_files.open_file(opened, LOCK, os.O_RDWR | os.O_CREAT)
        finally:
            os.close(opened)

    def records(self) -> Records:
        """Open the records; several processes may at a time."""
        return Records(self.folder / RECORDS)

    def take(self) -> None:
        """Be the one service of this folder, until `close`. Raises InvalidConfiguration."""
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InvalidConfiguration(
                f"--root {self.folder} is in use by another service. Give each its own folder."
            ) from None

    def close(self) -> None:
        """Let another service have the folder."""
        os.close(self._lock)


def _is_ours(name: str) -> bool:
    return name in FOLDERS or name.startswith((RECORDS, AUDIT_LOG, LOCK))
