"""Engines that gave other results than their model, remembered over restarts.

One file each, ID-JUDGED.refused: the engine's fingerprint, and what it was judged by. It holds why.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from pathlib import Path
from typing import Dict

from edge_agent.errors import BuildFailed
from edge_agent.runtime.backends.fingerprint import Fingerprint
from edge_agent.runtime.engines.storing import storing, write
from edge_agent.runtime.system.data_files import make_folder

REFUSED = ".refused"

log = logging.getLogger(__name__)


class Refusals:
    """Lies in the cache's `folder`; any thread may use it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: Dict[str, str] = {}  # also where the disk doesn't take it

    def add(self, wanted: Fingerprint, judged: str, why: str) -> None:
        """Never use this engine again."""
        path = self._path(wanted, judged)
        self._known[path.name] = why
        try:
            with storing(self._folder):
                make_folder(self._folder)
                write(path, why.encode())
        except BuildFailed as error:
            log.warning("The engine %s is refused until the agent restarts: %s", wanted.id, error)

    def find(self, wanted: Fingerprint, judged: str) -> str:
        """Return why it's never to be used; empty when it may be."""
        path = self._path(wanted, judged)
        if path.name in self._known:
            return self._known[path.name]
        with suppress(OSError):
            return path.read_text(encoding="utf-8", errors="replace")
        return ""

    def _path(self, wanted: Fingerprint, judged: str) -> Path:
        return self._folder / f"{wanted.id}-{judged}{REFUSED}"
