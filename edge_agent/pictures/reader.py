"""Reads the image files of people, all of a set alike.

Files of 16 bits a channel often hold fewer: 10, 12 or 14 of the camera. How many is decided once
for the whole set and for the folders that its files lie in, by the highest value in them, so that a
dark picture stays darker than its neighbours. Their brightness then becomes 8 bits.
"""

from __future__ import annotations

import os
import stat
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Callable, Dict, Iterable, Iterator, List, Optional, Tuple

import numpy as np

from edge_agent.errors import InvalidPicture
from edge_agent.pictures.listing import NO_FILE, LeftOut, is_picture_name, shown
from edge_agent.protocol import LARGEST_SIDE_PX, SMALLEST_SIDE_PX
from edge_agent.types import Frame

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edge_agent.runtime.vision.picture_files import Pixels, Samples

LARGEST_FILE_MIB = 256
DEPTHS = (8, 10, 12, 14, 16)  # bits a channel
NEIGHBOURS = 100  # files of a folder that are looked at for its depth
REMEMBERED = 4096  # files whose highest value is remembered

OnRefused = Callable[[LeftOut], None]


class PictureReader:
    """Reads the files of a set; remembers those that can't be used, each once.

    paths: the set, for the depth of files of 16 bits a channel; what is read belongs to it anyway.
    """

    def __init__(self, paths: Iterable[Path] = (), on_refused: OnRefused = lambda _: None) -> None:
        self._set = tuple(paths)
        self._refused: Dict[Path, LeftOut] = {}
        self._on_refused = on_refused
        self._highest: Optional[int] = None  # value in the set, once it is needed
        self._deep = 0  # files of 16 bits that were read

    @property
    def left_out(self) -> Tuple[LeftOut, ...]:
        """The files that couldn't be used."""
        return tuple(self._refused.values())

    @property
    def remarks(self) -> Tuple[str, ...]:
        """How files of 16 bits were read, in a sentence, when there were any."""
        if not self._deep:
            return ()
        bits = _bits(self._highest or 0)
        return (
            f"{self._deep} of the images have 16 bits a channel. The highest value in them and "
            f"beside them is {self._highest}, so they are read as {bits}-bit: 0 to "
            f"{2**bits - 1} becomes 0 to 255.",
        )

    def frames(self, paths: Iterable[Path]) -> Iterator[Tuple[Path, Frame]]:
        """Yield those files that can be used, read as `frame` does."""
        for path in paths:
            try:
                frame = self.frame(path)
            except InvalidPicture as error:
                self.refuse(path, error.reason)
            else:
                yield path, frame

    def refuse(self, path: Path, reason: str) -> None:
        """Leave a file out."""
        if path not in self._refused:
            self._refused[path] = LeftOut(path, reason)
            self._on_refused(self._refused[path])

    def frame(self, path: Path) -> Frame:
        """Read a picture of a size that the agent takes. Raises InvalidPicture."""
        return Frame(self._read(path, _check_size))

    def pixels(self, path: Path) -> Pixels:
        """Read a picture of any size, uint8 RGB (height, width, 3). Raises InvalidPicture."""
        return self._read(path, lambda content: None)

    def _read(self, path: Path, check: Callable[[bytes], None]) -> Pixels:
        try:
            content = _content(path)
            check(content)
            samples = _decode(content)
        except ValueError as error:
            raise InvalidPicture.named(shown(path), str(error)) from None
        if samples.dtype == np.uint8:
            return np.asarray(samples, np.uint8)
        self._deep += 1
        self._highest = max(self._highest_value(path), int(samples.max()))
        return _eight_bits(samples, _bits(self._highest))

    def _highest_value(self, path: Path) -> int:
        if self._highest is not None:
            return self._highest
        folders = {other.parent for other in (*self._set, path)}
        return _highest(
            (_value_of(other) for other in self._set),
            (_value_of(other) for folder in sorted(folders) for other in _some_of(folder)),
        )


def _content(path: Path) -> bytes:
    """Read a whole file. Raises ValueError: why that can't be done."""
    limit = LARGEST_FILE_MIB << 20
    try:
        opened = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe would wait
    except OSError as error:
        raise ValueError(f"it can't be opened: {error.strerror}") from None
    with os.fdopen(opened, "rb") as file:
        about = os.fstat(opened)
        if not stat.S_ISREG(about.st_mode):
            raise ValueError(NO_FILE)
        if about.st_size > limit:
            raise ValueError(f"it has more than {LARGEST_FILE_MIB} MiB")
        try:
            return file.read(limit)
        except OSError as error:
            raise ValueError(f"it can't be read: {error.strerror}") from None


def _decode(content: bytes) -> Samples:
    from edge_agent.runtime.vision.picture_files import decode

    return decode(content)


def _check_size(content: bytes) -> None:
    """Refuse before decoding what the agent would refuse; EXIF data may turn it, no more."""
    from edge_agent.runtime.vision.picture_headers import read_header

    _, width, height, *_ = read_header(content)
    if not all(SMALLEST_SIDE_PX <= side <= LARGEST_SIDE_PX for side in (width, height)):
        raise ValueError(
            f"it is {width}x{height} pixels; width and height must be {SMALLEST_SIDE_PX} to "
            f"{LARGEST_SIDE_PX}"
        )


def _bits(highest: int) -> int:
    return next(bits for bits in DEPTHS if highest < 1 << bits)


def _eight_bits(samples: NDArray[np.unsignedinteger], bits: int) -> Pixels:
    return np.asarray(samples >> (bits - 8), np.uint8)


def _highest(*groups: Iterable[int]) -> int:
    """Return the highest of all values; no more are asked for once all 16 bits are in use."""
    highest = 0
    for group in groups:
        for value in group:
            highest = max(highest, value)
            if _bits(highest) == DEPTHS[-1]:
                return highest
    return highest


def _some_of(folder: Path) -> List[Path]:
    names = [name for name in sorted(os.listdir(folder)) if is_picture_name(name)]  # noqa: PTH208
    return [folder / name for name in names[:: max(len(names) // NEIGHBOURS, 1)]]


def _value_of(path: Path) -> int:
    """Return the highest value of a file of 16 bits a channel; 0 for any other file."""
    try:
        about = path.stat()
    except OSError:
        return 0
    return _measured(path, about.st_mtime_ns, about.st_size)


@lru_cache(maxsize=REMEMBERED)
def _measured(path: Path, _changed_ns: int, _size: int) -> int:
    from edge_agent.runtime.vision.picture_headers import read_header

    try:
        content = _content(path)
        return int(_decode(content).max()) if read_header(content).bits > 8 else 0
    except ValueError:
        return 0
