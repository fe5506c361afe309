"""Labelled images on disk: FOLDER/normal and FOLDER/anomaly, or the lines of a manifest."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Optional, Tuple

import cv2
import numpy as np

from edge_agent.errors import InvalidConfiguration
from edge_agent.evaluation.label_manifest import (
    ALL,
    ANOMALY,
    NORMAL,
    LabelManifest,
    ManifestOptions,
)
from edge_agent.types import Frame

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
SMALLEST = 64  # pixels each way; the agent takes no smaller frames


@dataclass(frozen=True)
class LabelledImages:
    """Image files by label, in order of name or of the manifest's lines.

    `remarks` are sentences for the user about labels and files; `model` is the one that captured
    the images, None where that isn't known.
    """

    normal: Tuple[Path, ...]
    anomaly: Tuple[Path, ...]
    remarks: Tuple[str, ...] = ()
    model: Optional[str] = None

    @classmethod
    def of(cls, source: Path, options: ManifestOptions = ALL) -> LabelledImages:
        """List `source`/normal and `source`/anomaly, each perhaps with sub-folders, or a manifest.

        A missing sub-folder holds nothing. Raises InvalidConfiguration: why it can't be read.
        """
        if source.is_file():
            read = LabelManifest.read(source, options)
            return cls(read.paths(NORMAL), read.paths(ANOMALY), read.remarks, read.model)
        if not source.is_dir():
            raise InvalidConfiguration(
                f"{source} isn't a folder, which must hold normal/ (images), nor a manifest."
            )
        return cls(_images(source / NORMAL), _images(source / ANOMALY))


def read_frame(path: Path) -> Frame:
    """Decode an image file into RGB. Raises InvalidConfiguration for one that cannot be used."""
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise InvalidConfiguration(f"{path} can't be read as an image; repair or remove it.")
    height, width = image.shape[:2]
    if min(height, width) < SMALLEST:
        raise InvalidConfiguration(
            f"{path} is {width}x{height} pixels; width and height must be {SMALLEST} or more."
        )
    return Frame(np.ascontiguousarray(image[:, :, ::-1]))


def _images(folder: Path) -> Tuple[Path, ...]:
    found = (path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    return tuple(sorted(path for path in found if not path.name.startswith(".")))
