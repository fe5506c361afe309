"""How large the defects are that masks show, and which of them a model can see."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Dict, Iterable

import cv2
import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from edge_agent.evaluation.masks import Masks
    from edge_agent.training.graph import Size

LEAST_SEEN = 6.0  # pixels of the model's input each way; on rough surfaces smaller ones are lost
CLEAR = 8.0  # pixels, to aim at
SMALL_SHARE = 0.1  # of the defects, which may be smaller than what is aimed at


def of_masks(masks: Masks, paths: Iterable[Path]) -> Dict[Path, float]:
    """Return the side of each picture's largest defect, as a share of the picture's mean side.

    The side of a square of the same area. Pictures without a mask, or with an empty one, are left
    out.
    """
    if masks.folder is None:
        return {}
    read = ((path, masks.of_image(path)) for path in paths)
    sides = {path: _largest(mask) for path, mask in read if mask is not None}
    return {path: side for path, side in sides.items() if side}


def usual(shares: Iterable[float], size: Size) -> float:
    """Return the side of the smaller defects, in pixels of a picture of `size`."""
    return float(np.quantile(list(shares), SMALL_SHARE)) * mean_side(size)


def mean_side(size: Size) -> float:
    """Return the side of a square of the same area, in pixels."""
    return math.sqrt(size[0] * size[1])


def _largest(mask: NDArray[np.uint8]) -> float:
    _, _, figures, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    areas = figures[1:, cv2.CC_STAT_AREA]
    return math.sqrt(areas.max() / mask.size) if len(areas) else 0.0
