"""The pictures of DetectAnomalies: the body of a call as pixels, a mask as PNG."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Optional

import numpy as np

from edge_agent.manifest import FILE_NAME, parse
from edge_agent.pictures.reader import frame_of
from edge_agent.runtime.vision.picture_files import png
from edge_agent.runtime.vision.picture_headers import PictureHeader, read_header
from edge_agent.service.faults import ValidationFailed

if TYPE_CHECKING:
    from numpy.typing import NDArray

FORMATS = ("JPEG", "PNG")
LARGEST_MIB = 8


def pixels_of(body: bytes, package: Path) -> NDArray[np.uint8]:
    """Decode a JPEG or PNG file into uint8 RGB (height, width, 3), as the model's package needs it.

    Raises ValidationFailed.
    """
    try:
        header = _checked_header(body)
        return frame_of(body, _image_bits(package) if header.bits > 8 else None).pixels
    except ValueError as error:
        raise ValidationFailed(f"The image in Body can't be used: {error}.") from None


def _checked_header(body: bytes) -> PictureHeader:
    if len(body) > LARGEST_MIB << 20:
        raise ValueError(f"it has {len(body)} bytes; expected at most {LARGEST_MIB} MiB")
    header = read_header(body)
    if header.format not in FORMATS:
        raise ValueError(f"it is a {header.format} file; expected {' or '.join(FORMATS)}")
    return header


def _image_bits(package: Path) -> Optional[int]:
    """Return as how many bits a channel the images of training were read that had 16."""
    return parse((package / FILE_NAME).read_bytes()).statistics.image_bits


def mask_file(mask: NDArray[np.uint8]) -> bytes:
    """Encode a mask, uint8 RGB (height, width, 3), as PNG; its few colours take little room."""
    return png(mask)
