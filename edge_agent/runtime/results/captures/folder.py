"""The folder of captures: files written whole or not at all, within a quota.

Each day has a sub-folder; a capture is an image, perhaps a mask, an overlay and a line of the
manifest. To make room, files without a line (left by a crash, or the line removed by hand) are
deleted first, then samples, then frames near the threshold or of a faulty camera, then anomalies;
the oldest first, and never a capture worth more than the new one.
"""

from __future__ import annotations

import os
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Collection, Deque, Iterator, List, Mapping, NamedTuple, Set, Tuple

from edge_agent.runtime.results.captures.captured_frame import (
    ANOMALY,
    CAMERA_PROBLEM,
    IMAGE_KEY,
    NEAR_THRESHOLD,
    OWN_KEY,
    SAMPLE,
    Line,
)
from edge_agent.runtime.results.captures.manifest import (
    OWN_NAME,
    WORK_FOLDER,
    CaptureManifest,
    encoded,
    files,
    write_synced,
)
from edge_agent.runtime.system.data_files import make_folder

WORTH = {SAMPLE: 1, CAMERA_PROBLEM: 2, NEAR_THRESHOLD: 2, ANOMALY: 3}  # 0: what no line names
LEAST_DROPPED = 32  # lines at once, so that the manifest isn't rewritten for each
DROPPED_SHARE = 0.1


class CaptureFiles(NamedTuple):
    """The files of one capture on disk; the first is its image."""

    files: Tuple[str, ...]
    size: int


class CaptureFolder:
    """Stores at most `quota_bytes` in `folder`. Used by one thread; methods raise OSError.

    Any thread may set another `quota_bytes`; it applies to the next capture.
    """

    def __init__(self, folder: Path, quota_bytes: int) -> None:
        self.path = folder
        self.last: Mapping[str, Line] = {}  # of each model, the newest; replaced, never changed
        self.quota_bytes = quota_bytes
        self._manifest = CaptureManifest(folder)
        self._stored: List[Deque[CaptureFiles]] = []  # by worth, oldest first
        self._sizes: List[int] = []
        self._manifest_identity = (0, 0)
        self._deleted_images: Set[str] = set()  # whose lines are still in the manifest

    def open(self) -> None:
        """Read what is there; what an earlier run left unfinished is removed."""
        make_folder(self.path)
        workplace = self.path / WORK_FOLDER
        make_folder(workplace)
        with self._manifest.locked():
            for file in workplace.iterdir():
                file.unlink()
            self._manifest.repair()
            self._scan()

    def add(self, line: Line, contents: Mapping[str, bytes]) -> bool:
        """Write a capture; `contents` by name, its image last. False when there is no room for it.

        Raises OSError; no file of it is left then.
        """
        worth = WORTH[line[OWN_KEY]["reason"]]
        size = sum(map(len, contents.values()))
        with self._manifest.locked():
            if self._manifest.identity() != self._manifest_identity:
                self._scan()  # captures were removed or lines edited by somebody else
            if not self._make_room(size + len(encoded(line)), worth):
                return False
            self._write(line, contents)
            self._record(CaptureFiles(files(line), size), worth)
            self.last = {**self.last, line[OWN_KEY]["model"]: line}
            self._manifest_identity = self._manifest.identity()
            if len(self._deleted_images) > max(
                LEAST_DROPPED, DROPPED_SHARE * sum(map(len, self._stored))
            ):
                self._drop_lines()
        return True

    def close(self) -> None:
        """Remove the lines of deleted captures from the manifest."""
        with self._manifest.locked():
            self._drop_lines()

    def _scan(self) -> None:
        there = dict(_sizes(self.path))
        unnamed = set(there)
        self._stored, self._sizes = [deque() for _ in range(4)], [0] * 4
        self._deleted_images, last = set(), {}
        for line in self._manifest.captures():
            own, named = line[OWN_KEY], files(line)
            if line[IMAGE_KEY] not in there:
                self._deleted_images.add(line[IMAGE_KEY])
            elif line[IMAGE_KEY] in unnamed:  # else a person added a second line
                size = sum(there.get(name, 0) for name in named)
                self._record(
                    CaptureFiles(named, size), WORTH.get(str(own.get("reason")), WORTH[SAMPLE])
                )
                last[str(own.get("model"))] = line
            unnamed.difference_update(named)
        for name in sorted(unnamed):
            self._record(CaptureFiles((name,), there[name]), 0)
        self.last = last
        self._drop_lines()

    def _record(self, stored: CaptureFiles, worth: int) -> None:
        self._stored[worth].append(stored)
        self._sizes[worth] += stored.size

    def _make_room(self, size: int, worth: int) -> bool:
        if sum(self._sizes[worth + 1 :]) + size > self.quota_bytes:
            return False
        while sum(self._sizes) + self._manifest.size() + size > self.quota_bytes:
            rank = next((rank for rank in range(worth + 1) if self._stored[rank]), None)
            if rank is not None:
                self._delete_oldest(rank)
            elif self._deleted_images:
                self._drop_lines()
            else:
                return False
        return True

    def _delete_oldest(self, rank: int) -> None:
        oldest = self._stored[rank].popleft()
        self._sizes[rank] -= oldest.size
        delete(self.path, oldest.files)
        self._deleted_images.add(oldest.files[0])
        gone = [model for model, line in self.last.items() if files(line) == oldest.files]
        self.last = {model: line for model, line in self.last.items() if model not in gone}

    def _write(self, line: Line, contents: Mapping[str, bytes]) -> None:
        fresh = {name: self.path / WORK_FOLDER / name.replace("/", "-") for name in contents}
        try:
            for name, content in contents.items():
                write_synced(fresh[name], content)
            make_folder((self.path / line[IMAGE_KEY]).parent)
            for name, file in fresh.items():
                file.rename(self.path / name)
            self._manifest.append(line)
        except OSError:
            with suppress(OSError):
                delete(self.path, [*contents, *(f"{WORK_FOLDER}/{f.name}" for f in fresh.values())])
            raise

    def _drop_lines(self) -> None:
        if self._deleted_images:
            self._manifest.drop(self._deleted_images)
        self._deleted_images = set()
        self._manifest_identity = self._manifest.identity()


def delete(folder: Path, names: Collection[str]) -> None:
    """Delete files of `folder` that may be gone already, and their sub-folder once it is empty."""
    for name in names:
        (folder / name).unlink(missing_ok=True)
    for parent in {(folder / name).parent for name in names} - {folder / WORK_FOLDER}:
        with suppress(OSError):
            parent.rmdir()


def _sizes(folder: Path) -> Iterator[Tuple[str, int]]:
    """Return name and size in bytes of every file that may be ours."""
    for day in os.scandir(folder):
        if day.is_dir(follow_symlinks=False) and day.name != WORK_FOLDER:
            for file in os.scandir(day.path):
                name = f"{day.name}/{file.name}"
                if OWN_NAME.fullmatch(name) and file.is_file(follow_symlinks=False):
                    yield name, file.stat(follow_symlinks=False).st_size
