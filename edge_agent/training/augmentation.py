"""Images, and copies of them as a plant might show them another day: other light, place, focus."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edge_agent.pictures.disturbances import DISTURBANCES

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Pixels = NDArray[np.uint8]
    Indices = NDArray[np.intp]

COPIES = 100  # of the images of one label, for each level
OF_EACH = 4  # copies at most of one image, for each level
MOST_COPIES = 1000  # of level USUAL, which has one of each image up to here
CHANGES = 3  # disturbances of a copy
# The border isn't looked at, so dead columns there change nothing. Heads that learned light from
# one side would overlook stains.
KINDS = tuple(kind for kind in DISTURBANCES if kind.name not in ("dead columns", "side light"))
# Levels: up to which of a disturbance's strengths a copy is changed.
TAKEN, USUAL, STRONG = 0, 1, 2  # 0: not changed


@dataclass(frozen=True)
class Views:
    """Images of one label, and after them their copies, which are made when they are asked for.

    pixels: (n, H, W, 3) uint8 RGB, of the images. images: (v,), the index of the image that each
    view shows. levels: (v,), how much it may be changed. parts: (v,), the index of the part on it,
    whatever was done to its picture.
    """

    pixels: Pixels
    images: Indices
    levels: Indices
    parts: Indices
    seed: int

    @classmethod
    def of(cls, pixels: Pixels, parts: Indices, seed: int, highest: int) -> Views:
        """Add copies of images evenly chosen, of levels up to `highest`. parts: (n,), of images."""
        count = len(pixels)
        few = min(COPIES, OF_EACH * count)
        many = (count, min(max(count, few), MOST_COPIES), few)[: highest + 1]
        chosen = np.concatenate([np.arange(each) * count // max(each, 1) for each in many])
        levels = np.repeat(np.arange(len(many)), many)
        return cls(pixels, chosen, levels, parts[chosen], seed)

    def __len__(self) -> int:
        return len(self.images)

    def at(self, indices: Indices) -> Pixels:
        """Return the views of `indices` (k,) as pixels (k, H, W, 3)."""
        shown = self.pixels[self.images[indices]]
        for view, pixels in zip(indices.tolist(), shown):
            level = int(self.levels[view])
            if level != TAKEN:
                pixels[...] = disturbed(pixels, level, np.random.default_rng((self.seed, view)))
        return shown


def disturbed(pixels: Pixels, level: int, random: np.random.Generator) -> Pixels:
    """Return `pixels` (H, W, 3) after CHANGES disturbances, of strengths up to that of `level`."""
    for index in np.sort(random.choice(len(KINDS), CHANGES, replace=False)):
        kind = KINDS[index]
        pixels = kind.change(pixels, random.uniform(0.0, kind.strengths[level]), random)
    return pixels
