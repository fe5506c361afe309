"""Pictures, uint8 RGB arrays of shape (height, width, 3), as the bytes of image files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Sequence

import cv2
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Pixels = NDArray[np.uint8]

THUMBNAIL_WIDTH = 640
THUMBNAIL_QUALITY = 80
SHRINK = 0.8  # by so much at least from one try to the next


def png(picture: Pixels) -> bytes:
    """Encode without loss."""
    return _encode(".png", picture)


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
