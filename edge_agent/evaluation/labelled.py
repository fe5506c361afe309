"""Labelled images on disk: FOLDER/normal and FOLDER/anomaly, each perhaps with sub-folders."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Tuple

import cv2
import numpy as np

from edge_agent.errors import InvalidConfiguration
from edge_agent.types import Frame

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
SMALLEST = 64  # pixels each way; the agent takes no smaller frames


@dataclass(frozen=True)
class LabelledFolder:
    """Image files by label, in order of name."""

    normal: Tuple[Path, ...]
    anomaly: Tuple[Path, ...]

    @classmethod
    def of(cls, folder: Path) -> LabelledFolder:
        """List `folder`/normal and `folder`/anomaly; a missing sub-folder holds nothing."""
        if not folder.is_dir():
            raise InvalidConfiguration(f"{folder} isn't a folder; it must hold normal/ (images).")
        return cls(_images(folder / "normal"), _images(folder / "anomaly"))


def read_frame(path: Path) -> Frame:
    """Decode an image file into RGB. Raises InvalidConfiguration for one that cannot be used."""
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise InvalidConfiguration(f"{path} can't be read as an image; mend or remove it.")
    height, width = image.shape[:2]
    if min(height, width) < SMALLEST:
        raise InvalidConfiguration(
            f"{path} is {width}x{height} pixels; width and height must be {SMALLEST} or more."
        )
    return Frame(np.ascontiguousarray(image[:, :, ::-1]))


def _images(folder: Path) -> Tuple[Path, ...]:
    found = (path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    return tuple(sorted(path for path in found if not path.name.startswith(".")))
