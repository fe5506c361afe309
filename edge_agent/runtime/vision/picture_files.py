"""Pictures, uint8 RGB arrays of shape (height, width, 3), as the bytes of image files."""

from __future__ import annotations

import os
import struct
from contextlib import contextmanager
from threading import RLock
from typing import TYPE_CHECKING, Iterator, Optional, Sequence

import cv2
import numpy as np

from edge_agent.runtime.vision.picture_headers import (
    JPEG_END,
    PictureHeader,
    read_header,
    without_alpha,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Pixels = NDArray[np.uint8]
    Samples = NDArray[np.unsignedinteger]

MOST_PIXELS = 1 << 27  # of a picture that is decoded: 400 MB of memory
JPEG_GREY = 128  # what is missing in a JPEG is decoded as blocks of this grey
_ANY_DATA = bytes(range(1, 250))
# Stands for what may be missing, in a JPEG with restart markers as well: one of the eight fits.
FILLER = _ANY_DATA + b"".join(bytes((0xFF, 0xD0 + each)) + _ANY_DATA for each in range(8))
PNG_START = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
EIGHT_BITS_RGB = (8, 2)  # bit depth and colour type
SAME_FORMAT = {".jfif": ".jpg"}
THUMBNAIL_WIDTH = 640
THUMBNAIL_QUALITY = 80
SHRINK = 0.8  # by so much at least from one try to the next
STANDARD_ERROR = 2
_ONE_IS_QUIET = RLock()


def png(picture: Pixels) -> bytes:
    """Encode without loss."""
    return _encode(".png", picture)


def read_png(file: bytes, width: int, height: int) -> Pixels:
    """Decode an 8-bit RGB PNG of `width` x `height` pixels.

    The size stands in the first chunk (PNG specification, 11.2.2 IHDR), so that a file of another
    size takes no memory. Raises ValueError: what the file is instead.
    """
    if not file.startswith(PNG_START):
        raise ValueError("it isn't a PNG")
    came = struct.unpack(">IIBB", file[16:26].ljust(10, b"\0"))
    if came != (width, height, *EIGHT_BITS_RGB):
        raise ValueError(
            f"it has {came[0]}x{came[1]} pixels of {came[2]} bits and colour type {came[3]}; "
            f"expected {width}x{height} of 8 bits and colour type 2, RGB"
        )
    picture = cv2.imdecode(
        np.frombuffer(file, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    )
    if picture is None or picture.shape != (height, width, 3):
        raise ValueError("it is damaged")
    return np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), np.uint8)


def decode(content: bytes) -> Samples:
    """Decode the bytes of an image file into RGB (height, width, 3), uint8 or uint16 as stored.

    Upright as its EXIF data say, the first picture where there are several, without transparency.
    Raises ValueError: why it can't be used, in few words.
    """
    header = read_header(content)
    if header.width * header.height > MOST_PIXELS:
        raise ValueError(
            f"it is {header.width}x{header.height} pixels by its header; "
            f"expected at most {MOST_PIXELS // 10**6} million"
        )
    if not header.is_complete:
        raise ValueError(f"it is cut short or damaged: a part of the {header.format} is missing")
    picture = _decoded(content, header)
    if picture is None or picture.dtype not in (np.uint8, np.uint16):
        what = "damaged, or of an unknown kind"
        if picture is not None:
            what = f"made of {picture.dtype} values, which aren't supported"
        raise ValueError(
            f"it can't be read as an image: the {header.format} is {what}; expected 8 or 16 bits "
            "a channel"
        )
    if header.format == "JPEG" and _ends_early(content, picture):
        raise ValueError("it is cut short: the end of the JPEG's data is missing")
    samples: Samples = cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)
    return samples


@contextmanager
def quiet() -> Iterator[None]:
    """Drop what the decoders print on standard error, as it names no file.

    All that the process prints there meanwhile goes with it: for commands, and for moments.
    """
    with _ONE_IS_QUIET:
        try:
            kept = os.dup(STANDARD_ERROR)
        except OSError:  # it is closed
            yield
            return
        nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.dup2(nowhere, STANDARD_ERROR)
            yield
        finally:
            os.dup2(kept, STANDARD_ERROR)
            os.close(kept)
            os.close(nowhere)


def _decoded(content: bytes, header: PictureHeader) -> Optional[Samples]:
    """Return the picture upright as OpenCV has it: blue first; None when that can't be done."""
    deep = cv2.IMREAD_ANYDEPTH if header.bits > 8 else 0
    return _opencv(without_alpha(content) if header.format == "TIFF" else content, deep)


def _opencv(content: bytes, flag: int) -> Optional[Samples]:
    flags = cv2.IMREAD_COLOR | flag
    try:
        picture: Optional[Samples] = cv2.imdecode(np.frombuffer(content, np.uint8), flags)
    except cv2.error:
        return None
    return picture


def _ends_early(content: bytes, picture: Samples) -> bool:
    """Whether a JPEG that ends in grey would show something else if its data went on.

    Where its data end is a corner of the picture, whichever way it was turned upright.
    """
    corners = picture[:: max(len(picture) - 1, 1), :: max(picture.shape[1] - 1, 1)]
    if (corners != JPEG_GREY).any(axis=2).all():
        return False
    end = content.rfind(JPEG_END)
    with quiet():
        longer = _opencv(content[:end] + FILLER + content[end:], 0)
    return longer is None or longer.shape != picture.shape or bool((longer != picture).any())


def jpeg(picture: Pixels, quality: int) -> bytes:
    """Encode with loss; quality 1 to 100."""
    return _encode(".jpg", picture, (cv2.IMWRITE_JPEG_QUALITY, quality))


def encode(suffix: str, picture: Pixels) -> bytes:
    """Encode as a file's ending says, such as ".tif". Raises ValueError for an unknown one."""
    kind = SAME_FORMAT.get(suffix, suffix)
    try:
        return _encode(kind, picture)
    except cv2.error:
        raise ValueError(f"{suffix!r} is no known ending of image files") from None


def thumbnail(file: bytes, limit_bytes: int) -> bytes:
    """Return a small JPEG of the picture in `file` (PNG or JPEG), at most `limit_bytes` long.

    Raises ValueError when `file` is no picture or the limit leaves no room for any.
    """
    encoded = np.frombuffer(file, np.uint8)
    picture = cv2.imdecode(encoded, cv2.IMREAD_COLOR) if encoded.size else None
    if picture is None:
        raise ValueError("the file isn't a picture")
    width = min(THUMBNAIL_WIDTH, picture.shape[1])
    while width:
        height = max(round(picture.shape[0] * width / picture.shape[1]), 1)
        small = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
        content = _encode_bgr(".jpg", small, (cv2.IMWRITE_JPEG_QUALITY, THUMBNAIL_QUALITY))
        if len(content) <= limit_bytes:
            return content
        width = int(width * min((limit_bytes / len(content)) ** 0.5, SHRINK))
    raise ValueError(f"no picture fits into {limit_bytes} bytes")


def _encode(kind: str, picture: Pixels, options: Sequence[int] = ()) -> bytes:
    return _encode_bgr(kind, cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), options)


def _encode_bgr(kind: str, picture: Pixels, options: Sequence[int]) -> bytes:
    _, content = cv2.imencode(kind, picture, options)
    return bytes(content)
