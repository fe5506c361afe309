"""What a picture's light says of the camera, whatever the picture shows.

Training and runtime measure with the same function, on the same pixels: those the model gets.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


NOISE_ROUGHNESS = 5.0


@dataclass(frozen=True)
class Light:
    """Luma (0 to 255) of a picture at model size: mean, standard deviation, and how sharp.

    `sharpness` is the variance of the Laplacian; `digest` is equal for equal pictures only.
    `is_one_line`: every line is the same.
    """

    brightness: float
    contrast: float
    sharpness: float
    digest: int
    is_one_line: bool = False

    @property
    def roughness(self) -> float:
        """Sharpness, with the square of the contrast as its unit: how neighbouring pixels differ.

        20 where they have nothing in common, as in noise; half a pixel of blur, a sensor's colour
        filter or JPEG leave 3 to 15 of it. Pictures of parts have at most 1 (six sets).
        """
        return self.sharpness / self.contrast**2 if self.contrast else 0.0

    @property
    def is_noise(self) -> bool:
        """Whether neighbouring pixels have little in common: noise, or lone bright pixels."""
        return self.roughness >= NOISE_ROUGHNESS


def measure(pixels: NDArray[np.uint8]) -> Light:
    """Measure C-contiguous uint8 RGB pixels of shape (height, width, 3)."""
    luma = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    mean, deviation = cv2.meanStdDev(luma)
    edges = cv2.Laplacian(luma, cv2.CV_16S)
    # meanStdDev of 16 bit values takes twenty times as long as this sum of squares
    squares = cv2.norm(edges, cv2.NORM_L2SQR) / edges.size
    return Light(
        brightness=float(mean[0, 0]),
        contrast=float(deviation[0, 0]),
        sharpness=max(0.0, squares - cv2.mean(edges)[0] ** 2),
        digest=zlib.crc32(luma),
        # nearly always the first comparison says no
        is_one_line=luma[0].tobytes() == luma[-1].tobytes() and bool((luma == luma[0]).all()),
    )
