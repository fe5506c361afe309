"""`manifest.jsonl` of a folder of captures: one JSON line a capture, in the order they were taken.

The agent appends to it and removes lines of deleted captures; `edge-agent captures upload` removes
what it has moved, and people edit it meanwhile. Hence a lock file for our own programs; lines that
aren't ours stay as they are.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
from contextlib import contextmanager
from pathlib import Path
from typing import Collection, Iterator, List, Optional, Tuple

from edge_agent.runtime.results.captures.captured_frame import IMAGE_KEY, MASK_KEY, OWN_KEY, Line
from edge_agent.runtime.system.data_files import create, make_folder, modes_in
from edge_agent.runtime.system.files import create_new, write_atomically

FILE_NAME = "manifest.jsonl"
WORK_FOLDER = ".new"  # for unfinished files
LOCK = ".lock"
# Names that may be ours, and so may be deleted; nothing else ever is.
OWN_NAME = re.compile(r"\d{4}-\d{2}-\d{2}/[a-zA-Z0-9_.-]+\.(png|jpg)")


class CaptureManifest:
    """The manifest of `folder`. Methods raise OSError."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / FILE_NAME

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the folder against other programs of ours."""
        with open(create(self._folder / LOCK, 0), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def captures(self) -> List[Line]:
        """Return the lines that are ours and whole."""
        lines = (parsed(raw) for raw in self._raw())
        return [line for line in lines if line is not None and files(line)]

    def size(self) -> int:
        """Return the file's length in bytes."""
        return self._path.stat().st_size if self._path.exists() else 0

    def identity(self) -> Tuple[int, int]:
        """Return a value that changes when the file is replaced, not when lines are appended."""
        try:
            facts = self._path.stat()
        except FileNotFoundError:
            return 0, 0
        return facts.st_dev, facts.st_ino

    def append(self, line: Line) -> None:
        """Add a line, whole or not at all."""
        opened = create(self._path, os.O_APPEND)
        with open(opened, "ab", buffering=0) as file:  # a buffer would be flushed once more
            before, left = file.tell(), encoded(line)
            try:
                while left:
                    left = left[file.write(left) or 0 :]
            except OSError:
                os.ftruncate(file.fileno(), before)
                raise

    def drop(self, images: Collection[str]) -> None:
        """Remove the lines of these images, in one step."""
        self._replace([raw for raw in self._raw() if _image(raw) not in images])

    def repair(self) -> None:
        """Complete a last line that lacks its line break, or remove it if it is incomplete."""
        raw = self._raw()
        if raw and not raw[-1].endswith(b"\n"):
            whole = parsed(raw[-1]) is not None
            self._replace([*raw[:-1], raw[-1] + b"\n"] if whole else raw[:-1])

    def _raw(self) -> List[bytes]:
        try:
            return self._path.read_bytes().splitlines(keepends=True)
        except FileNotFoundError:
            return []

    def _replace(self, raw: List[bytes]) -> None:
        fresh = self._folder / WORK_FOLDER / FILE_NAME
        make_folder(fresh.parent)
        mode = modes_in(fresh.parent).file
        write_atomically(self._path, b"".join(raw), mode=mode, fresh=fresh)


def encoded(line: Line) -> bytes:
    """Return the line as bytes of the file."""
    return json.dumps(line, ensure_ascii=False).encode() + b"\n"


def files(line: Line) -> Tuple[str, ...]:
    """Return the names of a capture's files, the image first; none for a line that isn't ours."""
    own = line.get(OWN_KEY)
    if not isinstance(own, dict) or not _may_be_ours(line.get(IMAGE_KEY)):
        return ()
    named = (line[IMAGE_KEY], line.get(MASK_KEY), own.get("overlay"))
    return tuple(str(name) for name in named if _may_be_ours(name))


def write_synced(path: Path, content: bytes) -> None:
    """Write a new file that survives a power cut once it is renamed."""
    with open(create_new(path, modes_in(path.parent).file), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _may_be_ours(name: object) -> bool:
    return isinstance(name, str) and OWN_NAME.fullmatch(name) is not None


def parsed(raw: bytes) -> Optional[Line]:
    """Return the JSON object of a line of the file, None when it isn't one."""
    try:
        line = json.loads(raw)
    except ValueError:
        return None
    return line if isinstance(line, dict) else None


def _image(raw: bytes) -> object:
    line = parsed(raw)
    return line.get(IMAGE_KEY) if line is not None and files(line) else None
