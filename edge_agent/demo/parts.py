"""Pictures of plates with the truth beside them, drawn from a seed: no download, no camera."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, List, Optional, Tuple

import cv2
import numpy as np

from edge_agent.demo import light, plate
from edge_agent.demo.defects import DEFECTS

if TYPE_CHECKING:
    from numpy.typing import NDArray

VISIBLE_LEVELS = 6.0  # what the defect moves by so many grey levels belongs to the truth
DEFECT_SHARE = 0.4  # of a mixed line
SEEDS_A_RUN = 1_000_000  # one half to train on, one half for the line


@dataclass(frozen=True)
class Part:
    """`image`: uint8 RGB (720, 960, 3). `mask`: bool (720, 960), where the defect shows."""

    image: NDArray[np.uint8]
    mask: NDArray[np.bool_]
    defect: Optional[str]


def draw(seed: int, defect: Optional[str] = None) -> Part:
    """Draw the plate of `seed`, with `defect` (a key of DEFECTS) or faultless.

    The defective and the faultless plate of one seed differ in nothing but the defect.
    """
    random = np.random.default_rng([seed, 0])
    good = plate.lay(random)
    station = light.set_up(good, random)
    picture = light.shine(plate.surface(good), station)
    if defect is None:
        untouched = np.zeros(picture.shape[:2], np.bool_)
        return Part(light.expose(picture, station), untouched, None)
    bad = copy.deepcopy(good)
    DEFECTS[defect](bad, np.random.default_rng([seed, 1]))
    defective = light.shine(plate.surface(bad), station)
    return Part(light.expose(defective, station), _changed(picture, defective), defect)


def draw_frame(width: int, height: int) -> NDArray[np.uint8]:
    """Return a scratched part as a camera of `width` x `height` would see it: uint8 RGB."""
    image = draw(seed=1, defect="scratch").image
    rows = np.arange(height) * image.shape[0] // height
    columns = np.arange(width) * image.shape[1] // width
    return np.ascontiguousarray(image[rows][:, columns])


def training_seed(seed: int, index: int) -> int:
    """Return the seed of the `index`-th good part to train on; never one of the line's."""
    return seed * SEEDS_A_RUN + index


def mixed(count: int, seed: int) -> List[Tuple[int, Optional[str]]]:
    """Plan a line of `count` parts: (seed of the part, its defect or None), in random order."""
    random = np.random.default_rng([seed, 2])
    kinds = list(DEFECTS)
    defective = [kinds[index % len(kinds)] for index in range(round(count * DEFECT_SHARE))]
    line: List[Optional[str]] = [*defective, *([None] * (count - len(defective)))]
    first = seed * SEEDS_A_RUN + SEEDS_A_RUN // 2
    return [(first + place, line[index]) for place, index in enumerate(random.permutation(count))]


def _changed(before: NDArray[np.float32], after: NDArray[np.float32]) -> NDArray[np.bool_]:
    visible = np.abs(after - before).max(axis=2) >= VISIBLE_LEVELS
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (9, 9))
    closed = cv2.morphologyEx(visible.astype(np.uint8), cv2.MORPH_CLOSE, disc)
    return np.asarray(closed, np.bool_)
