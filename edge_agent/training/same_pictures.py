"""Pictures that are there twice: copies, also encoded again or resized a little.

Pictures of parts in a fixture look alike, so what counts is what is peculiar to each: how it
differs from the mean of all. A sketch of it finds candidates, the pixels decide.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Dict, Iterator, List, Sequence, Tuple

import cv2
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]
    Pixels = NDArray[np.uint8]
    Pair = Tuple[int, int]

SKETCH = 16  # pixels each way
BLOCK = 256  # sketches compared with all others at a time
CANDIDATES = 3  # of each picture: a copy is nearer than whatever else looks alike
# Of copies, JPEG quality 60 to 95 and scale 0.8 to 1.1, of six real sets: sketches from 0.989 on,
# details from 0.6 on, differences up to 8 levels. Drawn parts in one of nine places, of which
# sketches are as alike, share details up to 0.27; another picture of the same part up to 0.82.
ALIKE_SKETCH = 0.985  # correlation
ALIKE_DETAIL = 0.45  # correlation
MOST_DIFFERENT = 8.0  # levels, in a spot of 5 pixels: a defect or a moved part differs by more
FINE, COARSE = 1.0, 6.0  # sigmas in pixels, between which detail lies
EDGE = 3.0  # deviations, from which detail is that of an edge: parts that lie alike share it
LEAST_DEVIATION = 0.5  # grey levels


def pairs(parts: Sequence[Pixels]) -> List[Pair]:
    """Return which pictures show the same, by index over all `parts`, the lower one first.

    parts: pixels (n, H, W, 3) uint8 RGB, all of one size. Takes 1 kB a picture beside them.
    """
    pictures = _Pictures(parts)
    exact = _copies(pictures)
    seen_first = [index for index in range(len(pictures)) if index not in exact]
    near = set()
    if seen_first:
        usual = sum(pictures.grey(index) / np.float32(len(seen_first)) for index in seen_first)
        sketches = np.stack([_sketch(pictures.grey(index) - usual) for index in seen_first])
        for here, there in _candidates(sketches):
            first, second = sorted((seen_first[here], seen_first[there]))
            if (first, second) not in near and _show_the_same(
                pictures.grey(first), pictures.grey(second), np.asarray(usual)
            ):
                near.add((first, second))
    return sorted([*near, *((first, second) for second, first in exact.items())])


class _Pictures:
    """The pictures of several arrays, by one index; none is copied but the one asked for."""

    def __init__(self, parts: Sequence[Pixels]) -> None:
        self._places = [(part, index) for part in parts for index in range(len(part))]

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> Pixels:
        part, place = self._places[index]
        pixels: Pixels = part[place]
        return pixels

    def grey(self, index: int) -> Floats:
        return np.asarray(cv2.cvtColor(self[index], cv2.COLOR_RGB2GRAY), np.float32)


def _copies(pictures: _Pictures) -> Dict[int, int]:
    """Return the first picture of the very same pixels, by the index of each later one."""
    first: Dict[bytes, int] = {}
    found = {}
    for index in range(len(pictures)):
        earlier = first.setdefault(hashlib.sha256(pictures[index].tobytes()).digest(), index)
        if earlier != index:
            found[index] = earlier
    return found


def _sketch(own: Floats) -> Floats:
    small = cv2.resize(own, (SKETCH, SKETCH), interpolation=cv2.INTER_AREA).ravel()
    small = small - small.mean()
    return np.asarray(small / max(float(np.linalg.norm(small)), 1e-6), np.float32)


def _candidates(sketches: Floats) -> Iterator[Pair]:
    """Yield each picture with those most like it."""
    few = min(CANDIDATES, len(sketches) - 1)
    for start in range(0, len(sketches) if few else 0, BLOCK):
        likeness = sketches[start : start + BLOCK] @ sketches.T
        rows = np.arange(len(likeness))
        likeness[rows, start + rows] = -1.0
        nearest = np.argpartition(-likeness, few - 1, axis=1)[:, :few]
        for row, column in zip(np.repeat(rows, few), nearest.ravel()):
            if likeness[row, column] >= ALIKE_SKETCH:
                yield start + int(row), int(column)


def _show_the_same(one: Floats, other: Floats, usual: Floats) -> bool:
    return (
        _correlation(_detail(one - usual), _detail(other - usual)) >= ALIKE_DETAIL
        and _difference(one, other) <= MOST_DIFFERENT
    )


def _detail(own: Floats) -> Floats:
    detail = cv2.GaussianBlur(own, (0, 0), FINE) - cv2.GaussianBlur(own, (0, 0), COARSE)
    deviation = max(1.4826 * float(np.median(np.abs(detail))), LEAST_DEVIATION)
    return np.asarray(np.where(np.abs(detail) > EDGE * deviation, np.float32(0.0), detail))


def _correlation(one: Floats, other: Floats) -> float:
    one, other = one - one.mean(), other - other.mean()
    return float(
        (one * other).sum() / max(float(np.linalg.norm(one) * np.linalg.norm(other)), 1e-6)
    )


def _difference(one: Floats, other: Floats) -> float:
    """Return the greatest difference of a spot, less what half a pixel of shift explains."""
    apart = cv2.GaussianBlur(one - other, (0, 0), FINE)
    apart = np.abs(apart - np.median(apart)) - 0.5 * np.minimum(_edges(one), _edges(other))
    return float(cv2.blur(np.maximum(apart, 0.0), (5, 5)).max())


def _edges(grey: Floats) -> Floats:
    around = np.ones((3, 3), np.uint8)
    return np.asarray(cv2.dilate(grey, around) - cv2.erode(grey, around))
