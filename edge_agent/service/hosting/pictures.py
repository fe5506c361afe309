"""The pictures of DetectAnomalies: the body of a call as pixels, a mask as PNG."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edge_agent.pictures.reader import frame_of
from edge_agent.runtime.vision.picture_files import png
from edge_agent.runtime.vision.picture_headers import read_header
from edge_agent.service.faults import ValidationFailed

if TYPE_CHECKING:
    from numpy.typing import NDArray

FORMATS = ("JPEG", "PNG")
LARGEST_MIB = 8


def pixels_of(body: bytes) -> NDArray[np.uint8]:
    """Decode a JPEG or PNG file into uint8 RGB (height, width, 3). Raises ValidationFailed."""
    try:
        if len(body) > LARGEST_MIB << 20:
            raise ValueError(f"it has {len(body)} bytes; expected at most {LARGEST_MIB} MiB")
        kind = read_header(body).format
        if kind not in FORMATS:
            raise ValueError(f"it is a {kind} file; expected {' or '.join(FORMATS)}")
        return frame_of(body).pixels
    except ValueError as error:
        raise ValidationFailed(f"The image in Body can't be used: {error}.") from None


def mask_file(mask: NDArray[np.uint8]) -> bytes:
    """Encode a mask, uint8 RGB (height, width, 3), as PNG."""
    return png(mask)
