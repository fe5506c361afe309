"""From pictures to what the head is fitted on: features, and good patches to remember."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edge_agent.training import synthetic_defects
from edge_agent.training.features import feature_model
from edge_agent.training.graph import IMAGE, Session
from edge_agent.training.head import CANDIDATES, coordinates

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]
    Pixels = NDArray[np.uint8]

# Steps of rows and columns: mirrored left to right, top to bottom, both.
MIRRORS = ((1, -1), (-1, 1), (-1, -1))
PLENTY = 2  # times the candidates of a coreset that are drawn of each mirroring


@dataclass(frozen=True)
class Evidence:
    """What the images show, before anything is fitted.

    normal, anomaly, synthetic: features (n, channels, rows, columns) of good images, of bad ones,
    and of good ones with artificial defects. patches: (n normal, m, channels + 2), patches of each
    good image and of its mirror images, their place from -1 to 1 at the end.
    """

    normal: Floats
    anomaly: Floats
    synthetic: Floats
    patches: Floats

    @classmethod
    def of(cls, normal: Pixels, anomaly: Pixels, random: np.random.Generator) -> Evidence:
        """Run the served features over images (n, H, W, 3) uint8 RGB."""
        session = Session(feature_model((normal.shape[1], normal.shape[2])))
        good = session.run_all(IMAGE, normal)["features"]
        patches = [_some_patches(good, random)]
        for down, right in MIRRORS:
            mirrored = np.ascontiguousarray(normal[:, ::down, ::right])
            features = session.run_all(IMAGE, mirrored)["features"]
            patches.append(_some_patches(features, random))
        synthetic = session.run_all(IMAGE, synthetic_defects.add_defects(normal, random))[
            "features"
        ]
        bad = session.run_all(IMAGE, anomaly)["features"] if len(anomaly) else good[:0]
        return cls(good, bad, synthetic, np.concatenate(patches, axis=1))


def _some_patches(features: Floats, random: np.random.Generator) -> Floats:
    """Draw the same number from each image's `features` (n, channels, rows, columns)."""
    count, channels, rows, columns = features.shape
    flat = features.reshape(count, channels, -1)
    places = coordinates(rows, columns).reshape(2, -1)
    wanted = min(rows * columns, -(-PLENTY * CANDIDATES // count))
    drawn = np.empty((count, wanted, channels + 2), np.float32)
    for image, target in zip(flat, drawn):
        chosen = np.sort(random.choice(rows * columns, wanted, replace=False))
        target[:, :channels] = image[:, chosen].T
        target[:, channels:] = places[:, chosen].T
    return drawn
