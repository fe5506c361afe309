"""Patches beside a Gaussian of the good ones at each place (PaDiM, arXiv 2011.08785).

For large inputs: a bank of some thousand patches leaves gaps among the many that their pictures
have, and a small defect is no farther from them than the rarest good patch. A mean at each place
and one covariance have no gaps, and take less time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Tuple

import cv2
import numpy as np

from edge_agent.training.augmentation import TAKEN
from edge_agent.training.features import gaussian
from edge_agent.training.graph import BATCH, GraphBuilder, Session, Size
from edge_agent.training.head import Scored, Usual
from edge_agent.training.sample import robust_deviation
from edge_agent.training.validation import LEAST_DEVIATION, SMOOTH

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edge_agent.training.evidence import Features

    Floats = NDArray[np.float32]

SIGMAS = (0.0, 2.0)  # patches, that features are blurred by: for defects of one patch, and larger
MOST_BYTES = 384 << 20  # of features that are learned from
SAMPLES = 100_000  # patches of the covariance
LEAST_SHARE = 0.03  # of the channels' usual deviation: grey images have no colour
RIDGE = 1e-3  # of a channel's variance
SMOOTH_DEVIATION = 4.0  # sigma in patches: few images know it very roughly
LEAST_OF_USUAL = 0.5  # of the usual deviation of a place


class _Scale(NamedTuple):
    """What is usual of residuals that are blurred by `sigma`.

    whitening: (channels, channels), after which their mean square is 1. gain, offset: (rows,
    columns), of a place's distance to what it counts, in robust deviations of pictures' peaks.
    """

    sigma: float
    whitening: Floats
    gain: Floats
    offset: Floats


@dataclass(frozen=True)
class GaussianHead:
    """A picture is as anomalous as its patch that is farthest from the mean of its place.

    mean: (channels, rows, columns).
    """

    has_map: ClassVar[bool] = True

    mean: Floats
    scales: Tuple[_Scale, ...]

    @classmethod
    def fit(cls, good: Features, _bad: Features, _random: np.random.Generator) -> GaussianHead:
        """Learn from good images as taken: copies that are moved would hide defects."""
        taken = good.some(good.levels == TAKEN)
        known = taken.at_most(max(MOST_BYTES // good.bytes_of_view, 2)).all()
        mean = known.mean(axis=0)
        # A residual from the mean of the others is longer by this.
        longer = len(known) / (len(known) - 1.0)
        return cls(mean, tuple(_scale(known, mean, sigma, longer) for sigma in SIGMAS))

    def append(self, graph: GraphBuilder, features: str, _size: Size) -> Scored:
        """Append features (N, channels, rows, columns) → map and score, the map's peak."""
        maps = []
        for sigma, whitening, gain, offset in self.scales:
            residual = _append_residual(graph, features, self.mean, sigma)
            distance = _append_distance(graph, residual, whitening)
            gained = graph.add("Mul", distance, graph.constant(gain[None, None]))
            maps.append(graph.add("Add", gained, graph.constant(offset[None, None])))
        map_ = graph.add("Max", *maps)
        return Scored(map_, graph.add("ReduceMax", map_, axes=[1, 2, 3], keepdims=0))


def _scale(known: Floats, mean: Floats, sigma: float, longer: float) -> _Scale:
    """Fit to features (n, channels, rows, columns), each as judged by the others."""
    graph = GraphBuilder()
    residual = _append_residual(graph, _declare(graph, known), mean, sigma)
    graph.output("residual", residual, (BATCH, *mean.shape))
    blurred = Session(graph.model())
    step = -(-len(known) * mean[0].size // SAMPLES)
    drawn = [
        blurred.run_all("features", each[None])["residual"].reshape(len(mean), -1)[:, ::step]
        for each in known
    ]
    whitening = _whitening(longer * np.concatenate(drawn, axis=1))
    distances = longer * _distances(known, mean, sigma, whitening)
    usual = cv2.GaussianBlur(distances.mean(axis=0), (0, 0), SMOOTH)
    squares = np.square(distances - usual).mean(axis=0)
    deviation = np.sqrt(cv2.GaussianBlur(squares, (0, 0), SMOOTH_DEVIATION))
    deviation = np.maximum(deviation, LEAST_OF_USUAL * np.median(deviation) + LEAST_DEVIATION)
    peaks = ((distances - usual) / deviation).max(axis=(1, 2))
    peak = Usual(float(np.median(peaks)), max(float(robust_deviation(peaks)), LEAST_DEVIATION))
    gain = 1.0 / (deviation * np.float32(peak.deviation))
    return _Scale(sigma, whitening, gain, -(usual * gain) - peak.median / peak.deviation)


def _whitening(residuals: Floats) -> Floats:
    """Return what makes residuals (channels, n) independent, with a mean square of 1 together."""
    covariance = residuals @ residuals.T / residuals.shape[1]
    deviation = np.sqrt(np.diag(covariance))
    varying = deviation[deviation > 0.0]
    least = LEAST_SHARE * np.median(varying) if len(varying) else 1.0
    deviation = np.maximum(deviation, least)
    values, vectors = np.linalg.eigh(covariance / np.outer(deviation, deviation))
    lengths = np.sqrt((np.maximum(values, 0.0) + RIDGE) * len(values))
    return np.asarray((vectors / lengths).T / deviation, np.float32)


def _distances(known: Floats, mean: Floats, sigma: float, whitening: Floats) -> Floats:
    """Return the distance of each patch of features (n, channels, rows, columns)."""
    graph = GraphBuilder()
    residual = _append_residual(graph, _declare(graph, known), mean, sigma)
    distance = _append_distance(graph, residual, whitening)
    graph.output("distance", distance, (BATCH, 1, *mean.shape[1:]))
    return Session(graph.model()).run_all("features", known)["distance"][:, 0]


def _declare(graph: GraphBuilder, features: Floats) -> str:
    return graph.input("features", np.float32, (BATCH, *features.shape[1:]))


def _append_residual(graph: GraphBuilder, features: str, mean: Floats, sigma: float) -> str:
    """Append features minus `mean`, blurred along the rows and then the columns."""
    residual, channels = graph.add("Sub", features, graph.constant(mean[None])), len(mean)
    if not sigma:
        return residual
    reach = round(2 * sigma)
    line = np.tile(gaussian(2 * reach + 1, sigma).sum(axis=0), (channels, 1, 1, 1))
    across = graph.conv(residual, line, pads=[0, reach] * 2, group=channels)
    return graph.conv(across, line.swapaxes(2, 3), pads=[reach, 0] * 2, group=channels)


def _append_distance(graph: GraphBuilder, residual: str, whitening: Floats) -> str:
    """Append the length of whitened residuals (N, channels, rows, columns) → (N, 1, …)."""
    white = graph.conv(residual, whitening[:, :, None, None])
    ones = np.ones((1, len(whitening), 1, 1), np.float32)
    return graph.add("Sqrt", graph.conv(graph.add("Mul", white, white), ones))
