"""Image files as frames."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Iterable, List

from edge_agent.errors import InvalidRequest
from edge_agent.pictures.listing import SUFFIXES, PictureListing, sentence, shown
from edge_agent.pictures.outputs import write_picture

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def find(paths: Iterable[Path]) -> List[Path]:
    """Return the image files among `paths` and in folders of them, in order of name.

    Raises InvalidRequest for a path that is not there and when there is no image at all.
    """
    return list(listed(paths).paths)


def listed(paths: Iterable[Path]) -> PictureListing:
    """Return the same with what is left out. Raises InvalidRequest."""
    paths = list(paths)
    for path in paths:
        try:
            path.stat()
        except FileNotFoundError:
            raise InvalidRequest(f"{shown(path)} doesn't exist.") from None
        except OSError as error:
            raise InvalidRequest(f"{shown(path)} can't be opened: {error.strerror}.") from None
    found = PictureListing.of(paths)
    if not found.paths and not any(item.is_picture for item in found.left_out):
        endings = f"No images found; known file endings: {', '.join(SUFFIXES)}."
        raise InvalidRequest(f"{endings} {sentence(found.left_out)}".rstrip())
    return found


def load(path: Path) -> NDArray[np.uint8]:
    """Return the picture as uint8 RGB (height, width, 3). Raises InvalidRequest.

    Of a file with 16 bits a channel the brightest value in its folder becomes white, or nearly so.
    """
    check_opencv()
    from edge_agent.pictures.reader import PictureReader

    return PictureReader().pixels(path)


def save(path: Path, image: NDArray[np.uint8]) -> None:
    """Write uint8 RGB (height, width, 3), as the ending says. Raises InvalidRequest.

    The file is there whole or not at all, and a link in its place is replaced, not followed.
    """
    check_opencv()
    write_picture(path, image)


def check_opencv() -> None:
    """Import OpenCV, which a program that only talks to the agent needn't install."""
    try:
        import cv2  # noqa: F401
    except ImportError:
        raise InvalidRequest(
            "Image files need OpenCV, which isn't installed. "
            "Install it: pip install opencv-python-headless."
        ) from None
