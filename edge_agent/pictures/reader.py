"""Reads the image files of people, all of a set alike.

Files of 16 bits a channel often hold fewer: 10, 12 or 14 of the camera. How many is what the model
was trained on, or decided once for the whole set and for the folders that its files lie in, by the
highest value in them, so that a dark picture stays darker than its neighbours. Their brightness
then becomes 8 bits.
"""

from __future__ import annotations

import os
import stat
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Callable, Dict, Iterable, Iterator, List, Optional, Set, Tuple

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
    bits: that depth, one of DEPTHS, where it is known.
    """

    def __init__(
        self,
        paths: Iterable[Path] = (),
        on_refused: OnRefused = lambda _: None,
        bits: Optional[int] = None,
    ) -> None:
        self._set = tuple(paths)
        self._refused: Dict[Path, LeftOut] = {}
        self._on_refused = on_refused
        self._known_bits = bits
        self._highest: Optional[int] = None  # value in the set, once it is needed
        self._deep: Set[Path] = set()  # files of 16 bits that were read

    @property
    def paths(self) -> Tuple[Path, ...]:
        """The files of the set."""
        return self._set

    @property
    def left_out(self) -> Tuple[LeftOut, ...]:
        """The files that couldn't be used."""
        return tuple(self._refused.values())

    @property
    def bits(self) -> Optional[int]:
        """As how many bits files of 16 bits a channel were read; None when there were none."""
        return self._depth() if self._deep else None

    @property
    def remarks(self) -> Tuple[str, ...]:
        """How files of 16 bits were read, in a sentence, when there were any."""
        if not self._deep:
            return ()
        bits, count = self._depth(), len(self._deep)
        have = "has" if count == 1 else "have"
        if self._known_bits:
            found = f"They are read as {bits}-bit, as given or as the model was trained"
        else:
            found = (
                f"The highest value in them and beside them is {self._highest}, so they are read "
                f"as {bits}-bit"
            )
        over = f", and so does what is above (up to {self._highest})"
        return (
            f"{count} of the images {have} 16 bits a channel. {found}: 0 to {2**bits - 1} becomes "
            f"0 to 255{over if (self._highest or 0) >> bits else ''}.",
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
        from edge_agent.runtime.vision.picture_files import quiet

        with quiet():
            return Frame(self._eight_bits(path, read_samples(path, _check_size)))

    def pixels(self, path: Path) -> Pixels:
        """Read a picture of any size, uint8 RGB (height, width, 3). Raises InvalidPicture."""
        return self._eight_bits(path, read_samples(path))

    def _eight_bits(self, path: Path, samples: Samples) -> Pixels:
        if samples.dtype == np.uint8:
            return np.asarray(samples, np.uint8)
        self._deep.add(path)
        self._highest = max(self._highest_value(path), int(samples.max()))
        return _eight_bits(samples, self._depth())

    def _depth(self) -> int:
        return self._known_bits or _bits(self._highest or 0)

    def _highest_value(self, path: Path) -> int:
        if self._highest is not None or self._known_bits:
            return self._highest or 0
        folders = {other.parent for other in (*self._set, path)}
        return _highest(
            (_value_of(other) for other in self._set),
            (_value_of(other) for folder in sorted(folders) for other in _some_of(folder)),
        )


def read_samples(path: Path, check: Callable[[bytes], None] = lambda _: None) -> Samples:
    """Read a picture as it is stored: RGB (height, width, 3), uint8 or uint16.

    check: raises ValueError for bytes that aren't to be decoded. Raises InvalidPicture.
    """
    try:
        content = _content(path)
        check(content)
        return _decode(content)
    except ValueError as error:
        raise InvalidPicture.named(shown(path), str(error)) from None


def frame_of(content: bytes, bits: Optional[int] = None) -> Frame:
    """Read the bytes of an image file, a picture of a size that the agent takes.

    bits: as how many a file with 16 bits a channel is read, one of DEPTHS; None: by its highest
    value. Raises ValueError: why it can't be used, in few words.
    """
    _check_size(content)
    samples = _decode(content)
    if samples.dtype == np.uint8:
        return Frame(np.asarray(samples, np.uint8))
    return Frame(_eight_bits(samples, bits or _bits(int(samples.max()))))


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
    return np.asarray(np.minimum(samples >> (bits - 8), 255), np.uint8)


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
    try:
        paths = sorted(path for path in folder.iterdir() if is_picture_name(path.name))
    except OSError:
        return []
    return paths[:: max(len(paths) // NEIGHBOURS, 1)]


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
