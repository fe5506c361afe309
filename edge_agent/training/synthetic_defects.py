"""Artificial defects: spots cut from one good image and pasted into another.

They are a measure of how strongly a defect may show where there is no real one; after CutPaste
(arXiv 2104.04015), with soft oval borders and a change of brightness.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Tuple

import cv2
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Pixels = NDArray[np.uint8]

COUNT = 150  # images with a defect: fewer don't tell a good head from a better one
FEWEST = 40  # of large images, each of which takes long
PIXELS = COUNT << 18  # of COUNT images, from which on they are fewer
SIDES = (0.06, 0.2)  # of a spot, as shares of the image's mean side
LONGEST = 256  # pixels, of that side: in large images small defects count
BRIGHTNESS = 20.0  # grey levels a spot is lighter or darker at most


def add_defects(images: Pixels, random: np.random.Generator) -> Tuple[Pixels, NDArray[np.intp]]:
    """Return copies of the `images` (n, H, W, 3) with one spot each, and the indices of these.

    COUNT of them, or fewer large ones, drawn at random; some more than once where there are fewer.
    """
    count = int(np.clip(PIXELS // (images.shape[1] * images.shape[2]), FEWEST, COUNT))
    chosen = np.sort(random.choice(len(images), count, replace=len(images) < count))
    defective = images[chosen]
    for target in defective:
        _paste(target, images[random.integers(len(images))], random)
    return defective, chosen


def _paste(target: Pixels, source: Pixels, random: np.random.Generator) -> None:
    side = min((target.shape[0] * target.shape[1]) ** 0.5, LONGEST)
    height, width = (
        int(np.clip(random.uniform(*SIDES) * side, 4, length // 2)) for length in target.shape[:2]
    )
    spot = _window(source, height, width, random) + random.uniform(-BRIGHTNESS, BRIGHTNESS)
    place = _window(target, height, width, random)
    share = _oval(height, width)
    place[...] = np.clip(share * spot + (1.0 - share) * place, 0, 255).astype(np.uint8)


def _window(image: Pixels, height: int, width: int, random: np.random.Generator) -> Pixels:
    """Return a view of `height` x `width` pixels somewhere in the image."""
    top = random.integers(image.shape[0] - height + 1)
    left = random.integers(image.shape[1] - width + 1)
    return image[top : top + height, left : left + width]


def _oval(height: int, width: int) -> NDArray[np.float32]:
    """Return (height, width, 1): 1 inside an oval, falling softly to 0 at its border."""
    share = np.zeros((height, width), np.float32)
    half: Tuple[int, int] = (max(width // 2 - 1, 1), max(height // 2 - 1, 1))
    cv2.ellipse(share, (width // 2, height // 2), half, 0, 0, 360, 1.0, -1)
    return np.asarray(cv2.GaussianBlur(share, (0, 0), 1.0), np.float32)[..., None]
