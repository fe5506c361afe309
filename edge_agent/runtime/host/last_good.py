"""The component's configuration of its last good start, on disk: a wrong one doesn't stop the line."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Optional

from edge_agent.fields import parse_json
from edge_agent.runtime.host.session import Configuration
from edge_agent.runtime.system.files import write_atomically

log = logging.getLogger(__name__)

FILE_NAME = "last-good.json"  # in the work folder; only the agent's user may read it


class LastGood:
    """Owns the file."""

    def __init__(self, work: Path) -> None:
        self._path = work / FILE_NAME
        self.configuration: Optional[Configuration] = self._load()  # None: there is none

    def keep(self, configuration: Configuration) -> None:
        """Store it, unless it is stored already."""
        if configuration == self.configuration:
            return
        try:
            write_atomically(self._path, json.dumps(configuration, indent=1).encode() + b"\n")
        except OSError as error:
            log.warning("The settings can't be kept in %s: %s.", self._path, error.strerror)
        else:
            self.configuration = configuration

    def _load(self) -> Optional[Configuration]:
        try:
            values = parse_json(self._path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            log.warning("%s can't be read (%s); it is written again.", self._path, error)
            return None
        return values if isinstance(values, dict) else None
