"""Which models ran and were not stopped by anybody: they run again when they come back."""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import FrozenSet, Optional, Tuple

from pydantic import Field
from typing_extensions import Annotated

from edge_agent.fields import Strict, read_json
from edge_agent.manifest import NAME_PATTERN
from edge_agent.runtime.system import private_files
from edge_agent.runtime.system.files import write_atomically
from edge_agent.types import ModelInfo, ModelState

log = logging.getLogger(__name__)

MOST_BYTES = 4 * 1024 * 1024


class _File(Strict):
    running: Tuple[Annotated[str, Field(pattern=NAME_PATTERN)], ...]


class RunningModels:
    """The names of the models; with a `path` of None they end with the process.

    `note` may be called on any thread, the rest by one.
    """

    def __init__(self, path: Optional[Path]) -> None:
        self._path = path
        self._names = self._stored = _read(path) if path else frozenset()
        self._failure = ""
        self._lock = threading.Lock()  # of the names

    def __contains__(self, name: str) -> bool:
        """Whether the model ran when it was last here."""
        return name in self._names

    def note(self, info: ModelInfo) -> None:
        """Note a change of state; one that removes the model isn't published."""
        with self._lock:
            if info.state is ModelState.RUNNING:
                self._names |= {info.name}
            elif info.state is ModelState.STOPPING:
                self._names -= {info.name}

    def store(self) -> None:
        """Write what changed; when that fails it is logged once, and tried again each time."""
        names = self._names
        if self._path is None or names == self._stored:
            return
        content = _File(running=tuple(sorted(names))).model_dump_json(indent=2) + "\n"
        try:
            self._path.parent.mkdir(0o700, parents=True, exist_ok=True)
            write_atomically(self._path, content.encode())
        except OSError as error:
            if self._failure != str(error):
                self._failure = str(error)
                log.error(  # noqa: TRY400 - the disk's fault, no traceback needed
                    "%s can't be written (%s). After a restart the agent won't know which models "
                    "ran.", self._path, error.strerror,
                )  # fmt: skip
        else:
            self._stored, self._failure = names, ""


def _read(path: Path) -> FrozenSet[str]:
    try:
        return frozenset(read_json(_File, private_files.read(path, MOST_BYTES)).running)
    except FileNotFoundError:
        return frozenset()
    except (OSError, ValueError) as error:
        log.error(  # noqa: TRY400 - the file's fault, no traceback needed
            "%s can't be used. Models that ran before must be started again: %s", path, error
        )
        return frozenset()
