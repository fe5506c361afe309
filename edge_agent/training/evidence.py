"""From pictures to what a memory is fitted on: features, and good patches to remember."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Tuple

import numpy as np

from edge_agent.training import synthetic_defects
from edge_agent.training.features import FeatureExtractor, feature_model
from edge_agent.training.graph import IMAGE, Session
from edge_agent.training.head import CANDIDATES, coordinates

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]
    Pixels = NDArray[np.uint8]

PLENTY = 2  # times the candidates of a coreset that are drawn


@dataclass(frozen=True)
class Images:
    """Pixels (n, H, W, 3) uint8 RGB: good ones, bad ones, and good ones with artificial defects.

    sources: (n,), the index of the good image that each artificial defect was put into.
    """

    normal: Pixels
    anomaly: Pixels
    synthetic: Pixels
    sources: NDArray[np.intp]

    @classmethod
    def of(cls, normal: Pixels, anomaly: Pixels, random: np.random.Generator) -> Images:
        """Draw artificial defects into some of the good images."""
        return cls(normal, anomaly, *synthetic_defects.add_defects(normal, random))


@dataclass(frozen=True)
class Evidence:
    """What the images show, before anything is fitted.

    normal, anomaly, synthetic: features (n, channels, rows, columns). patches: (n normal, m,
    channels + 2), drawn from each good image, their place from -1 to 1 at the end. sources: as in
    Images.
    """

    normal: Floats
    anomaly: Floats
    synthetic: Floats
    patches: Floats
    sources: NDArray[np.intp]

    @property
    def images(self) -> Tuple[Floats, Floats, Floats]:
        """Features of normal, anomaly and synthetic images."""
        return self.normal, self.anomaly, self.synthetic

    @classmethod
    def of(
        cls, images: Images, extractor: FeatureExtractor, random: np.random.Generator
    ) -> Evidence:
        """Run the `extractor` over the images."""
        session = Session(feature_model(images.normal.shape[1:3], extractor))
        good, bad, synthetic = (
            session.run_all(IMAGE, pixels)["features"]
            for pixels in (images.normal, images.anomaly, images.synthetic)
        )
        return cls(good, bad, synthetic, _some_patches(good, random), images.sources)


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
