"""Image files as frames."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Iterable, List

import numpy as np

from edge_agent.errors import InvalidRequest

if TYPE_CHECKING:
    from numpy.typing import NDArray

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")


def find(paths: Iterable[Path]) -> List[Path]:
    """Return the image files among `paths` and in folders of them, in order of name.

    Raises InvalidRequest for a path that is not there and when there is no image at all.
    """
    found: List[Path] = []
    for path in paths:
        if path.is_dir():
            inside = (file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES)
            found.extend(sorted(inside))
        elif path.is_file():
            found.append(path)
        else:
            raise InvalidRequest(f"{path} doesn't exist.")
    if not found:
        raise InvalidRequest(f"No images found; known file endings: {', '.join(SUFFIXES)}.")
    return found


def load(path: Path) -> NDArray[np.uint8]:
    """Return the picture as uint8 RGB (height, width, 3). Raises InvalidRequest."""
    cv2 = _opencv()
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise InvalidRequest(f"{path} can't be read as an image.")
    rgb: NDArray[np.uint8] = np.ascontiguousarray(image[:, :, ::-1])
    return rgb


def save(path: Path, image: NDArray[np.uint8]) -> None:
    """Write uint8 RGB (height, width, 3). Raises InvalidRequest when that cannot be done."""
    cv2 = _opencv()
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix.lower() not in SUFFIXES or not cv2.imwrite(str(path), image[:, :, ::-1]):
        raise InvalidRequest(f"{path} can't be written; known file endings: {', '.join(SUFFIXES)}.")


def _opencv() -> ModuleType:
    """Import OpenCV, which a program that only talks to the agent needn't install."""
    try:
        import cv2
    except ImportError:
        raise InvalidRequest(
            "Image files need OpenCV, which isn't installed. "
            "Install it: pip install opencv-python-headless."
        ) from None
    return cv2
