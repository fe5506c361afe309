"""Which models ran and were not stopped by anybody: they run again when they come back."""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import Collection, Optional, Tuple

from pydantic import Field
from typing_extensions import Annotated

from edge_agent.fields import Strict, read_json
from edge_agent.manifest import NAME_PATTERN
from edge_agent.runtime.system import private_files
from edge_agent.runtime.system.files import write_atomically
from edge_agent.types import ModelInfo, ModelState

log = logging.getLogger(__name__)

MOST_BYTES = 4 * 1024 * 1024
MOST_REMOVED = 1000  # names of models that aren't deployed; they may come back


class _File(Strict):
    running: Tuple[Annotated[str, Field(pattern=NAME_PATTERN)], ...]


class RunningModels:
    """The names of the models; with a `path` of None they end with the process.

    `note` may be called on any thread, the rest by one.
    """

    def __init__(self, path: Optional[Path]) -> None:
        self._path = path
        self._names = self._stored = _read(path) if path else ()  # in the order in which they began
        self._failure = ""
        self._lock = threading.Lock()  # of the names and the file

    def __contains__(self, name: str) -> bool:
        """Whether the model ran when it was last here."""
        return name in self._names

    def note(self, info: ModelInfo) -> None:
        """Note a change of state, on disk as well; one that removes the model isn't published."""
        with self._lock:
            is_in = info.name in self._names
            if info.state is ModelState.RUNNING and not is_in:
                self._store((*self._names, info.name))
            elif info.state is ModelState.STOPPING and is_in:
                self._store(tuple(name for name in self._names if name != info.name))

    def store(self, deployed: Collection[str]) -> None:
        """Forget the first of many that aren't deployed, and write again what couldn't be."""
        with self._lock:
            removed = [name for name in self._names if name not in deployed]
            forgotten = set(removed[:-MOST_REMOVED])
            self._store(tuple(name for name in self._names if name not in forgotten))

    def _store(self, names: Tuple[str, ...]) -> None:
        """Write what changed; when that fails it is logged once, and tried again each time."""
        self._names = names
        if self._path is None or names == self._stored:
            return
        content = _File(running=names).model_dump_json(indent=2) + "\n"
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


def _read(path: Path) -> Tuple[str, ...]:
    try:
        return read_json(_File, private_files.read(path, MOST_BYTES)).running
    except FileNotFoundError:
        return ()
    except (OSError, ValueError) as error:
        log.error(  # noqa: TRY400 - the file's fault, no traceback needed
            "%s can't be used. Models that ran before must be started again: %s", path, error
        )
        return ()
