"""Pictures, uint8 RGB arrays of shape (height, width, 3), as the bytes of image files."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Sequence

import cv2
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Pixels = NDArray[np.uint8]

PNG_START = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
EIGHT_BITS_RGB = (8, 2)  # bit depth and colour type
THUMBNAIL_WIDTH = 640
THUMBNAIL_QUALITY = 80
SHRINK = 0.8  # by so much at least from one try to the next


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


def jpeg(picture: Pixels, quality: int) -> bytes:
    """Encode with loss; quality 1 to 100."""
    return _encode(".jpg", picture, (cv2.IMWRITE_JPEG_QUALITY, quality))


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
