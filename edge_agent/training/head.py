"""The memory of good patches and its part of the graph (PatchCore, arXiv 2106.08265).

A patch is as anomalous as it is far from the nearest remembered one. Where parts lie still, the
place of a patch counts as two more channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, List, Tuple

import numpy as np

from edge_agent.training.features import gaussian
from edge_agent.training.graph import BATCH, GraphBuilder, Size

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

BANK = 2000  # patches remembered
CANDIDATES = 20000  # patches the coreset is chosen from
PROJECTION = 16  # dimensions in which candidates are compared (Johnson-Lindenstrauss)
POSITION_WEIGHT = 2.0  # of coordinates from -1 to 1, next to channels of deviation 1
BLURS = (0.8, 3.0)  # sigma in patches: small marks, and faint ones that cover more
ENLARGE = 2  # the map against the grid of patches, each way


@dataclass(frozen=True)
class Bank:
    """Remembered patches (k, channels + 2), standardised, with the weighted place at the end."""

    mean: Floats  # (channels,)
    deviation: Floats  # (channels,)
    position_weight: float
    patches: Floats

    @classmethod
    def fit(cls, patches: Floats, position_weight: float, random: np.random.Generator) -> Bank:
        """Remember some of the good `patches` (n, channels + 2), their place at the end."""
        channels = patches.shape[1] - 2
        values = patches[:, :channels]
        mean = values.mean(axis=0, dtype=np.float64).astype(np.float32)
        deviation = values.std(axis=0, dtype=np.float64)
        floor = 0.1 * np.median(deviation)  # grey images: the chroma never varies
        deviation = np.maximum(deviation, floor).astype(np.float32)
        offset = np.append(mean, np.zeros(2, np.float32))
        scale = np.append(1.0 / deviation, np.full(2, position_weight, np.float32))
        candidates = (draw_patches(patches, random) - offset) * scale
        return cls(mean, deviation, position_weight, coreset(candidates, BANK, random))


@dataclass(frozen=True)
class Norm:
    """What is usual of good images the bank has not seen.

    distance: (rows, columns), the mean at each place. peak, spread: of the highest excess over it
    in an image, one for each of BLURS; median and robust deviation.
    """

    distance: Floats
    peak: Floats
    spread: Floats


def draw_patches(patches: Floats, random: np.random.Generator, count: int = CANDIDATES) -> Floats:
    """Return at most `count` of the `patches` (n, channels), drawn at random."""
    if len(patches) <= count:
        return patches
    return patches[np.sort(random.choice(len(patches), count, replace=False))]


def coreset(patches: Floats, count: int, random: np.random.Generator) -> Floats:
    """Return at most `count` of the `patches` (n, channels), each as far as can be from the rest.

    PatchCore's greedy choice: the next one is the candidate farthest from all chosen so far.
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


def coordinates(rows: int, columns: int) -> Floats:
    """Return (2, rows, columns): height and width of each patch's place, from -1 to 1."""
    axes = [(2.0 * np.arange(count) + 1.0) / count - 1.0 for count in (rows, columns)]
    return np.stack(np.meshgrid(*axes, indexing="ij")).astype(np.float32)


def position_share(features: Floats) -> float:
    """Return the share of variance the place explains: median over channels, chance taken off.

    features: (n, channels, rows, columns), of which about a hundred images are looked at.
    """
    features = features[:: max(len(features) // 100, 1)]
    total = features.var(axis=(0, 2, 3), dtype=np.float64)
    explained = features.mean(axis=0, dtype=np.float64).var(axis=(1, 2)) - total / len(features)
    return float(np.median(explained / np.maximum(total, 1e-6)))


def append_distance(graph: GraphBuilder, features: str, bank: Bank, grid: Size) -> str:
    """Append features (N, C, rows, columns) → distance to the nearest (N, 1, rows, columns).

    |q - b|² = |q|² + |b|² - 2 q·b. A channel of ones, matched by |b|² - 1 in the bank, makes it one
    product and one minimum: only one array of patches x bank is alive at a time.
    """
    channels = len(bank.mean)
    scale = np.zeros((channels + 3, channels, 1, 1), np.float32)
    scale[np.arange(channels), np.arange(channels), 0, 0] = 1.0 / bank.deviation
    offset = np.ones((1, channels + 3, *grid), np.float32)
    offset[:, :channels] = (-bank.mean / bank.deviation)[:, None, None]
    offset[:, channels:-1] = bank.position_weight * coordinates(*grid)
    query = graph.add("Add", graph.conv(features, scale), graph.constant(offset))
    lengths = np.square(bank.patches, dtype=np.float64).sum(axis=1, keepdims=True)
    remembered = np.concatenate((-2.0 * bank.patches, lengths - 1.0), axis=1).T
    shape = graph.constant([0, channels + 3, grid[0] * grid[1]], np.int64)
    rows = graph.add("Transpose", graph.add("Reshape", query, shape), perm=[0, 2, 1])
    products = graph.add("MatMul", rows, graph.constant(remembered))
    nearest = graph.add("ReduceMin", products, axes=[2], keepdims=1)
    axis = graph.constant([2], np.int64)
    length = graph.add("ReduceSum", graph.add("Mul", rows, rows), axis, keepdims=1)
    squared = graph.add("Relu", graph.add("Add", nearest, length))
    back = graph.constant([0, 1, grid[0], grid[1]], np.int64)
    return graph.add("Reshape", graph.add("Sqrt", squared), back)


def append_excess(graph: GraphBuilder, distance: str, usual: Floats) -> List[str]:
    """Append distance (N, 1, rows, columns) → its excess over `usual`, once for each of BLURS."""
    excess = graph.add("Sub", distance, graph.constant(usual[None, None]))
    blurred = []
    for sigma in BLURS:
        reach = round(2 * sigma + 0.5)
        kernel = gaussian(2 * reach + 1, sigma)[None, None]
        blurred.append(graph.conv(excess, kernel, pads=[reach] * 4))
    return blurred


def append_score(graph: GraphBuilder, distance: str, norm: Norm) -> Tuple[str, str]:
    """Append distance (N, 1, rows, columns) → map (N, 1, 2 rows, 2 columns) and score (N,).

    In robust deviations of good images' peaks. The score is the highest peak of any blur; the map
    is the narrowest blur's, which stays close to the defect. So a faint, broad finding may raise
    the score alone.
    """
    surprises = [
        graph.add("Mul", graph.add("Sub", excess, graph.constant(peak)), graph.constant(1 / spread))
        for excess, peak, spread in zip(
            append_excess(graph, distance, norm.distance), norm.peak, norm.spread
        )
    ]
    maps = [graph.enlarge(surprise, ENLARGE) for surprise in surprises]
    peaks = [graph.add("ReduceMax", each, axes=[1, 2, 3], keepdims=0) for each in maps]
    return maps[0], graph.add("Max", *peaks)


def distance_model(bank: Bank, grid: Size) -> bytes:
    """Build the graph `features` → `distance` alone, for cross-validation."""
    graph = GraphBuilder()
    features = graph.input("features", np.float32, (BATCH, len(bank.mean), *grid))
    graph.output("distance", append_distance(graph, features, bank, grid), (BATCH, 1, *grid))
    return graph.model()


def peak_model(usual: Floats) -> bytes:
    """Build the graph `distance` → `peaks` (N, len(BLURS)), the highest excess after each blur."""
    graph = GraphBuilder()
    distance = graph.input("distance", np.float32, (BATCH, 1, *usual.shape))
    blurred = graph.add("Concat", *append_excess(graph, distance, usual), axis=1)
    peaks = graph.add("ReduceMax", blurred, axes=[2, 3], keepdims=0)
    graph.output("peaks", peaks, (BATCH, len(BLURS)))
    return graph.model()


def score_model(norm: Norm) -> bytes:
    """Build the graph `distance` → `score` alone, for cross-validation."""
    graph = GraphBuilder()
    distance = graph.input("distance", np.float32, (BATCH, 1, *norm.distance.shape))
    graph.output("score", append_score(graph, distance, norm)[1], (BATCH,))
    return graph.model()
