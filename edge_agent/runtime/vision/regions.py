"""Connected anomalous areas of a label map, in pixels of the frame."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Callable, List

import cv2
import numpy as np

from edge_agent.types import Region

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Spread:
    """How `n` map pixels spread over an axis of the frame when resized to nearest.

    weights: (n,) frame pixels each map pixel covers; starts: (n + 1,) where each one begins.
    """

    weights: NDArray[np.int64]
    starts: NDArray[np.int64]


@lru_cache(maxsize=64)
def spread(map_size: int, frame_size: int) -> Spread:
    """Ask OpenCV's own nearest resize, so that areas and boxes agree with the painted mask."""
    line = np.arange(map_size, dtype=np.float32).reshape(1, map_size)
    sources = cv2.resize(line, (frame_size, 1), interpolation=cv2.INTER_NEAREST)
    counts = np.bincount(sources.ravel().astype(np.int64), minlength=map_size)
    return Spread(counts, np.concatenate(([0], counts.cumsum())))


@dataclass(frozen=True)
class Found:
    """A region before its class is named; `peak` is the raw map value."""

    label: int
    left: int
    top: int
    width: int
    height: int
    area: float
    peak: float

    def named(self, name: str, calibrate: Callable[[float], float]) -> Region:
        """Return the public value."""
        return Region(
            name, self.left, self.top, self.width, self.height, self.area, calibrate(self.peak)
        )


def find(
    labels: NDArray[np.uint8],
    map_: NDArray[np.float32],
    width: int,
    height: int,
    minimum_area: float,
) -> List[Found]:
    """Return the regions of a frame of `width` x `height` pixels, largest first.

    labels: (h, w) class indices, 0 is background; pixels of regions smaller than `minimum_area`
    (a share of all pixels) are set to 0 in place. map_: (h, w) values for the peaks.
    """
    columns, rows = spread(labels.shape[1], width), spread(labels.shape[0], height)
    found: List[Found] = []
    for label in np.unique(labels):
        if label == 0:
            continue
        count, components, boxes, _ = cv2.connectedComponentsWithStats(
            (labels == label).view(np.uint8), connectivity=8
        )
        for index in range(1, count):
            left, top, box_width, box_height = (int(value) for value in boxes[index][:4])
            window = np.s_[top : top + box_height, left : left + box_width]
            inside = components[window] == index
            covered = rows.weights[window[0]] @ inside @ columns.weights[window[1]]
            area = float(covered) / (width * height)
            if area < minimum_area or not covered:
                labels[window][inside] = 0
                continue
            x, y = int(columns.starts[left]), int(rows.starts[top])
            found.append(
                Found(
                    int(label),
                    x,
                    y,
                    int(columns.starts[left + box_width]) - x,
                    int(rows.starts[top + box_height]) - y,
                    area,
                    float(map_[window][inside].max()),
                )
            )
    return sorted(found, key=lambda region: -region.area)
