"""Where good ends: the raw score that becomes 0.5, and how steeply certainty grows around it."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from edge_agent.manifest import Calibration
from edge_agent.training import logistic

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.floating]

QUARTILES_FILE = "normal_scores.json"  # of a package
TYPICAL = 0.1  # calibrated score of a typical good image
FALSE_ALARMS = 0.1  # share of unseen good images above the threshold, where defects show as little
FAINT = 0.25  # share of artificial defects that need not show
NEARER_GOOD = 0.125  # of the way from good images to artificial defects: real ones may be faint
RIDGE = 1e-3  # on the slope, for scores of deviation 1


class Quartiles(NamedTuple):
    """Of the raw scores of good images that the model hadn't seen."""

    low: float
    middle: float
    high: float

    @classmethod
    def of(cls, raw: Floats) -> Quartiles:
        """Return those of raw scores (n,)."""
        return cls(*(float(each) for each in np.quantile(raw, (0.25, 0.5, 0.75))))

    @classmethod
    def from_json(cls, content: bytes) -> Quartiles:
        """Read what `to_json` wrote. Raises ValueError, KeyError or TypeError."""
        read = json.loads(content)
        return cls(*(float(read[name]) for name in cls._fields))

    def to_json(self) -> bytes:
        """Serialise for QUARTILES_FILE."""
        return (json.dumps(self._asdict()) + "\n").encode()

    def in_logits(self, calibration: Calibration) -> Quartiles:
        """Return what the sigmoid takes, of the same images."""
        return Quartiles(*(calibration.scale * each + calibration.shift for each in self))


def from_normals(normal: Floats, synthetic: Floats) -> Calibration:
    """Place the threshold by the raw scores of unseen good images and any artificial defects.

    At the upper end of the good ones; where artificial defects stand clear of it, an eighth of the
    way to them.
    """
    threshold = float(np.quantile(normal, 1.0 - FALSE_ALARMS))
    room = float(np.quantile(synthetic, FAINT)) - threshold if len(synthetic) else 0.0
    return _through(threshold + NEARER_GOOD * max(room, 0.0), normal)


def from_both(normal: Floats, anomaly: Floats) -> Calibration:
    """Fit the sigmoid to the raw scores of unseen good and of bad images, both of equal weight.

    Smoothed targets keep it finite (Platt, "Probabilistic outputs for support vector machines",
    1999), by the rarer kind's count, so that the threshold favours neither. Labels that
    contradict the score are not used.
    """
    scores = np.concatenate((normal, anomaly)).astype(np.float64)
    middle, width = scores.mean(), max(float(scores.std()), 1e-6)
    counts = (len(normal), len(anomaly))
    doubt = 1.0 / (min(counts) + 2.0)
    targets = np.repeat([doubt, 1.0 - doubt], counts)
    (slope,), offset = logistic.fit(((scores - middle) / width)[:, None], targets, RIDGE)
    if slope <= 0.0:
        return from_normals(normal, np.empty(0))
    return Calibration(scale=float(slope) / width, shift=offset - float(slope) * middle / width)


def apply(calibration: Calibration, raw: Floats) -> Floats:
    """Return calibrated scores, 0 to 1."""
    exponent = np.asarray(raw, np.float64) * calibration.scale + calibration.shift
    return np.asarray(1.0 / (1.0 + np.exp(-np.clip(exponent, -700.0, 700.0))))


def _through(threshold: float, normal: Floats) -> Calibration:
    """Return the sigmoid with 0.5 at `threshold` and TYPICAL at the median of `normal`."""
    distance = max(threshold - float(np.median(normal)), 1e-3)
    scale = math.log(1.0 / TYPICAL - 1.0) / distance
    return Calibration(scale=scale, shift=-scale * threshold)
