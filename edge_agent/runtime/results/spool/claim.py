"""One agent a folder: two would number the same results and deliver them twice."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Optional

from edge_agent.errors import InvalidConfiguration


class Claim:
    """Holds a folder until `release`, or until the process ends."""

    def __init__(self, folder: Path) -> None:
        """Make and claim `folder`. Raises InvalidConfiguration when another process has it.

        A folder that can't be made is nobody's; whoever wants to write there will say so.
        """
        self._file: Optional[int] = None
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        except OSError:
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self.release()
            raise InvalidConfiguration(
                f"results.folder {folder} is in use by another agent; give each its own."
            ) from None

    def release(self) -> None:
        """Let go of the folder."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
