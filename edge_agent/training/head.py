"""The memory of good patches and its part of the graph (PatchCore, arXiv 2106.08265).

A patch is as anomalous as it is far from the nearest remembered one. Where parts lie still, the
place of a patch counts as two more channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Optional, Tuple

import numpy as np

from edge_agent.training.features import gaussian
from edge_agent.training.graph import BATCH, GraphBuilder, Size

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

CANDIDATES = 20000  # patches the coreset is chosen from
PROJECTION = 16  # dimensions in which candidates are compared (Johnson-Lindenstrauss)
BLUR = 1.5  # sigma in patches, of the map


class Scored(NamedTuple):
    """Names of tensors: a map (N, 1, rows, columns), None without one, and a score (N,)."""

    map: Optional[str]
    score: str


class BankOptions(NamedTuple):
    """How many patches are remembered, and what their places count.

    position_weight: of coordinates from -1 to 1, next to channels of deviation 1. variance: share
    that the axes hold which channels are projected onto; 1: channels stay as they are.
    """

    size: int
    position_weight: float
    variance: float = 1.0


@dataclass(frozen=True)
class Bank:
    """Remembered patches (k, axes + 2), standardised, with the weighted place at the end.

    axes: (channels, axes), onto which standardised channels are projected.
    """

    mean: Floats  # (channels,)
    deviation: Floats  # (channels,)
    axes: Floats
    position_weight: float
    patches: Floats

    @classmethod
    def fit(cls, patches: Floats, options: BankOptions, random: np.random.Generator) -> Bank:
        """Remember some of the good `patches` (n, channels + 2), their place at the end."""
        channels = patches.shape[1] - 2
        values = patches[:, :channels]
        mean = values.mean(axis=0, dtype=np.float64).astype(np.float32)
        deviation = values.std(axis=0, dtype=np.float64)
        varying = deviation[deviation > 0.0]  # grey images: the chroma never varies
        floor = 0.1 * np.median(varying) if len(varying) else 1.0
        deviation = np.maximum(deviation, floor).astype(np.float32)
        drawn = draw_patches(patches, random)
        standardised = (drawn[:, :channels] - mean) / deviation
        axes = principal_axes(standardised, options.variance)
        places = options.position_weight * drawn[:, channels:]
        candidates = np.concatenate((standardised @ axes, places), axis=1)
        chosen = coreset(candidates, options.size, random)
        return cls(mean, deviation, axes, options.position_weight, chosen)


class Usual(NamedTuple):
    """Median and robust deviation of one figure of good images."""

    median: float
    deviation: float


@dataclass(frozen=True)
class Norm:
    """What is usual of good images the bank has not seen.

    distance: (rows, columns), the mean at each place. peak, mean: of an image's excess over it.
    """

    distance: Floats
    peak: Usual
    mean: Usual


def draw_patches(patches: Floats, random: np.random.Generator, count: int = CANDIDATES) -> Floats:
    """Return at most `count` of the `patches` (n, channels), drawn at random."""
    if len(patches) <= count:
        return patches
    return patches[np.sort(random.choice(len(patches), count, replace=False))]


def principal_axes(rows: Floats, share: float) -> Floats:
    """Return (channels, k): as few orthogonal axes as hold `share` of the variance of `rows`.

    rows: (n, channels). With a share of 1 the axes are the channels.
    """
    if share == 1.0:
        return np.eye(rows.shape[1], dtype=np.float32)
    values, vectors = np.linalg.eigh(np.cov(rows, rowvar=False, dtype=np.float64))
    held = np.cumsum(values[::-1]) / values.sum()
    count = int(np.searchsorted(held, share)) + 1
    return np.asarray(vectors[:, ::-1][:, :count], np.float32)


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


def append_distance(graph: GraphBuilder, features: str, bank: Bank, grid: Size) -> str:
    """Append features (N, C, rows, columns) → distance to the nearest (N, 1, rows, columns).

    |q - b|² = |q|² + |b|² - 2 q·b. A channel of ones, matched by |b|² - 1 in the bank, makes it one
    product and one minimum: only one array of patches x bank is alive at a time.
    """
    count = bank.axes.shape[1]
    scale = np.zeros((count + 3, len(bank.mean), 1, 1), np.float32)
    scale[:count, :, 0, 0] = (bank.axes / bank.deviation[:, None]).T
    offset = np.ones((1, count + 3, *grid), np.float32)
    offset[:, :count] = (-(bank.mean / bank.deviation) @ bank.axes)[:, None, None]
    offset[:, count:-1] = bank.position_weight * coordinates(*grid)
    query = graph.add("Add", graph.conv(features, scale), graph.constant(offset))
    lengths = np.square(bank.patches, dtype=np.float64).sum(axis=1, keepdims=True)
    remembered = np.concatenate((-2.0 * bank.patches, lengths - 1.0), axis=1).T
    shape = graph.constant([0, count + 3, grid[0] * grid[1]], np.int64)
    rows = graph.add("Transpose", graph.add("Reshape", query, shape), perm=[0, 2, 1])
    products = graph.add("MatMul", rows, graph.constant(remembered))
    nearest = graph.add("ReduceMin", products, axes=[2], keepdims=1)
    axis = graph.constant([2], np.int64)
    length = graph.add("ReduceSum", graph.add("Mul", rows, rows), axis, keepdims=1)
    squared = graph.add("Relu", graph.add("Add", nearest, length))
    back = graph.constant([0, 1, grid[0], grid[1]], np.int64)
    return graph.add("Reshape", graph.add("Sqrt", squared), back)


@dataclass(frozen=True)
class NearestHead:
    """An image is as anomalous as its patches are far from the nearest of good ones."""

    bank: Bank
    norm: Norm

    def append(self, graph: GraphBuilder, features: str, size: Size) -> Scored:
        """Append features (N, C, rows, columns), of `size` → map and score of `append_score`."""
        return append_score(graph, append_distance(graph, features, self.bank, size), self.norm)


def append_score(graph: GraphBuilder, distance: str, norm: Norm) -> Scored:
    """Append distance (N, 1, rows, columns) → map and score.

    In robust deviations of good images. The score is the map's peak, or how far the whole image is
    from good ones where that is more: faint texture all over.
    """
    blurred, mean = append_excess(graph, distance, norm.distance)
    map_ = append_standardised(graph, blurred, norm.peak)
    peak = graph.add("ReduceMax", map_, axes=[1, 2, 3], keepdims=0)
    return Scored(map_, graph.add("Max", peak, append_standardised(graph, mean, norm.mean)))


def append_excess(graph: GraphBuilder, distance: str, usual: Floats) -> Tuple[str, str]:
    """Append distance (N, 1, rows, columns) → its excess over `usual`, blurred, and mean (N,)."""
    excess = graph.add("Sub", distance, graph.constant(usual[None, None]))
    reach = round(2 * BLUR + 0.5)
    kernel = gaussian(2 * reach + 1, BLUR)[None, None]
    mean = graph.add("ReduceMean", excess, axes=[1, 2, 3], keepdims=0)
    return graph.conv(excess, kernel, pads=[reach] * 4), mean


def append_standardised(graph: GraphBuilder, tensor: str, usual: Usual) -> str:
    """Append a figure of an image or patch → the same in deviations of good images."""
    centred = graph.add("Sub", tensor, graph.constant(usual.median))
    return graph.add("Mul", centred, graph.constant(1.0 / usual.deviation))


def distance_model(bank: Bank, grid: Size) -> bytes:
    """Build the graph `features` → `distance` alone, for cross-validation."""
    graph = GraphBuilder()
    features = graph.input("features", np.float32, (BATCH, len(bank.mean), *grid))
    graph.output("distance", append_distance(graph, features, bank, grid), (BATCH, 1, *grid))
    return graph.model()


def excess_model(usual: Floats) -> bytes:
    """Build the graph `distance` → `peak` and `mean` (N,) of the excess over `usual`."""
    graph = GraphBuilder()
    distance = graph.input("distance", np.float32, (BATCH, 1, *usual.shape))
    blurred, mean = append_excess(graph, distance, usual)
    graph.output("peak", graph.add("ReduceMax", blurred, axes=[1, 2, 3], keepdims=0), (BATCH,))
    graph.output("mean", mean, (BATCH,))
    return graph.model()


def score_model(norm: Norm) -> bytes:
    """Build the graph `distance` → `score` alone, for cross-validation."""
    graph = GraphBuilder()
    distance = graph.input("distance", np.float32, (BATCH, 1, *norm.distance.shape))
    graph.output("score", append_score(graph, distance, norm).score, (BATCH,))
    return graph.model()
