"""Picture files. Pictures are uint8 RGB arrays of shape (height, width, 3)."""

from __future__ import annotations

from typing import TYPE_CHECKING, List

import cv2

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

THUMBNAIL_WIDTH, THUMBNAIL_QUALITY = 400, 84


def emptied(folder: Path) -> Path:
    """Make `folder`, remove the pictures an earlier run left in it, and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    for picture in folder.glob("*.png"):
        picture.unlink()
    return folder


def write(path: Path, picture: NDArray[np.uint8]) -> None:
    """Write `picture` as PNG."""
    path.write_bytes(_encode(".png", picture, []))


def thumbnail(picture: NDArray[np.uint8]) -> bytes:
    """Return a small JPEG of `picture`."""
    height = round(picture.shape[0] * THUMBNAIL_WIDTH / picture.shape[1])
    small = cv2.resize(picture, (THUMBNAIL_WIDTH, height), interpolation=cv2.INTER_AREA)
    return _encode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, THUMBNAIL_QUALITY])


def _encode(kind: str, picture: NDArray[np.uint8], options: List[int]) -> bytes:
    _, content = cv2.imencode(kind, picture[..., ::-1], options)
    return bytes(content)
