"""A few patches that stand for many: the greedy coreset of PatchCore (arXiv 2106.08265)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

CANDIDATES = 20000  # patches the coreset is chosen from
PROJECTION = 16  # dimensions in which candidates are compared (Johnson-Lindenstrauss)


def draw(patches: Floats, random: np.random.Generator, count: int = CANDIDATES) -> Floats:
    """Return at most `count` of the `patches` (n, channels), drawn at random."""
    if len(patches) <= count:
        return patches
    return patches[np.sort(random.choice(len(patches), count, replace=False))]


def choose(patches: Floats, count: int, random: np.random.Generator) -> Floats:
    """Return at most `count` of the `patches` (n, channels), each as far as can be from the rest.

    At any time the next one is the candidate farthest from all chosen so far.
    """
    if len(patches) <= count:
        return patches
    projection = random.standard_normal((patches.shape[1], PROJECTION)).astype(np.float32)
    points = patches @ projection
    squares = np.einsum("ij,ij->i", points, points)
    nearest = np.full(len(points), np.inf, np.float32)
    chosen = [int(random.integers(len(points)))]
    while len(chosen) < count:
        last = chosen[-1]
        distances = squares + squares[last] - 2.0 * (points @ points[last])
        np.minimum(nearest, distances, out=nearest)
        chosen.append(int(nearest.argmax()))
    return patches[chosen]
