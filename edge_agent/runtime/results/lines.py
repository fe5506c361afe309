"""Events as JSON lines in a file or on standard output, for plain use."""

from __future__ import annotations

import os
import stat
import sys
from concurrent.futures import Future
from pathlib import Path
from typing import Callable, Optional

from edge_agent.runtime.results.sink import Message, SinkUnavailable
from edge_agent.runtime.system.data_files import modes_in
from edge_agent.sources import with_home

STANDARD_OUTPUT = "-"


class LinesSink:
    """Appends to a file; after it was moved away (rotated) a new one is made."""

    name = "lines"
    window = window_per_model = 500
    problem = ""

    def __init__(self, target: str) -> None:
        """`target`: a path, or "-" for standard output. Raises InvalidConfiguration."""
        self._path = None if target == STANDARD_OUTPUT else Path(with_home(target, "results.lines"))
        self._file: Optional[int] = None

    def start(self, on_ready: Callable[[], None]) -> None:
        """Be ready at once; `send` reports a file that can't be opened."""
        on_ready()

    def send(self, message: Message) -> Future[None]:
        """Write one line. Raises SinkUnavailable."""
        try:
            self._write(message.body + b"\n")
        except OSError as error:
            where, why = self._path or "standard output", error.strerror or error
            raise SinkUnavailable(f"Results can't be written to {where}: {why}.") from None
        done: Future[None] = Future()
        done.set_result(None)
        return done

    def reset(self) -> None:
        """Do nothing: there is no connection."""

    def stop(self, within_s: float) -> None:
        """Close the file."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _write(self, line: bytes) -> None:
        if self._path is None:
            sys.stdout.buffer.write(line)
            sys.stdout.buffer.flush()
            return
        file = self._open(self._path)
        size = os.fstat(file).st_size
        try:
            written = os.write(file, line)
        except OSError:
            os.ftruncate(file, size)
            raise
        if written < len(line):  # the disk became full in the middle; no half line stays
            os.ftruncate(file, size)
            raise OSError("the disk is full")

    def _open(self, path: Path) -> int:
        if self._file is not None and not _is_at(self._file, path):
            os.close(self._file)
            self._file = None
        if self._file is None:
            self._file = _opened(path)
        return self._file


def _opened(path: Path) -> int:
    """Open to append. Raises OSError; PermissionError for a link or pipe of another user."""
    trusted = (0, os.geteuid())
    if path.is_symlink() and os.lstat(path).st_uid not in trusted:
        raise PermissionError(f"the link belongs to user {os.lstat(path).st_uid}; remove it")
    # O_NONBLOCK: nobody may be reading a FIFO
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK
    file = os.open(path, flags, modes_in(path.parent).file)
    facts = os.fstat(file)
    if not stat.S_ISREG(facts.st_mode) and facts.st_uid not in trusted:
        os.close(file)
        raise PermissionError(f"it isn't a file and belongs to user {facts.st_uid}; remove it")
    os.set_blocking(file, True)
    return file


def _is_at(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False
