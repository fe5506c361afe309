"""How far the scores of good parts have moved from those of training."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Optional, Sequence

import numpy as np

from edge_agent.manifest import Histogram

LEAST_SCORES = 250  # fewer scatter too much
# A smaller shift is no matter, however sure it is: training's scores are of pictures left out in
# turn, and without any drift lie up to 0.38 from those of new ones (six packages of the demo's
# parts). A lamp 20 % weaker, 15 % stronger, or a lens out of focus made 0.56 to 0.90.
LEAST_DISTANCE = 0.4
ALPHA = 1e-4
FACTOR = math.sqrt(-math.log(ALPHA / 2.0) / 2.0)


@dataclass(frozen=True)
class Drift:
    """The distance, 0 to 1, between `scores` scores and those of `trained` images.

    From `critical` on it is no chance any more; `higher`: than in training, else lower.
    """

    distance: float
    higher: bool
    critical: float
    scores: int
    trained: int


def compare(trained: Histogram, scores: Sequence[float], threshold: float) -> Optional[Drift]:
    """Compare with training, both only below `threshold`; None: there are too few.

    That way it doesn't matter how many parts are bad. The distance is that of Kolmogorov and
    Smirnov between two samples, the largest difference of their cumulated shares, here at the
    histogram's edges; critical is what chance exceeds with the probability ALPHA (Smirnov, "Table
    for estimating the goodness of fit of empirical distributions", 1948), but LEAST_DISTANCE at
    least. Between edges the difference may be larger: the alarm comes rather late than falsely.
    """
    edges = np.asarray(trained.edges)
    edges = edges[: np.searchsorted(edges, threshold, side="right")]
    if len(edges) < 2:
        return None
    expected = np.cumsum(trained.counts[: len(edges) - 1])
    below = np.searchsorted(np.sort(scores), edges)
    found = below[1:] - below[0]
    n, m = int(found[-1]), int(expected[-1])
    if n < LEAST_SCORES or m < 1:
        return None
    differences = expected / m - found / n
    largest = float(differences[np.abs(differences).argmax()])
    critical = max(LEAST_DISTANCE, FACTOR * math.sqrt((n + m) / (n * m)))
    return Drift(abs(largest), largest > 0.0, critical, n, m)
