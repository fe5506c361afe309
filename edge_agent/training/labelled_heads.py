"""Heads that learn from bad images too: one of the whole image, and one of each patch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import numpy as np

from edge_agent.training import logistic
from edge_agent.training.evidence import Features
from edge_agent.training.graph import BATCH, GraphBuilder, Session, Size
from edge_agent.training.head import Scored

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

RIDGE = 1e-3
SHARE = 0.02  # of the patches, the highest and lowest of which a picture is judged by
LEAST_DEVIATION = 0.1  # of the channels' median: grey images have no colour
PEAKS = 3  # patches whose mean is an image's score
SUSPECTS = 5  # patches of a bad image that count as bad
ROUNDS = 4  # of choosing these again
MOST_IMAGES = 200  # of each label, all of whose patches are looked at
MOST_BYTES = 1 << 30  # of their features: fewer large images
MOST_POOLED = 2000  # of each label
COMMON = 4000  # patches of good images, besides those that look worst


@dataclass(frozen=True)
class PooledHead:
    """The whole image by logistic regression on each channel's mean, extremes and deviation."""

    has_map: ClassVar[bool] = False

    line: logistic.Line  # over (4 channels,)

    @classmethod
    def fit(cls, good: Features, bad: Features, _random: np.random.Generator) -> PooledHead:
        """Learn from views of good images, and of bad ones."""
        graph = GraphBuilder()
        channels, *size = good.shape
        features = graph.input("features", np.float32, (BATCH, *good.shape))
        pooled = _append_pooled(graph, features, (size[0], size[1]))
        graph.output("pooled", pooled, (BATCH, 4 * channels))
        session = Session(graph.model())
        rows = [each.at_most(MOST_POOLED).judge(session, "pooled") for each in (good, bad)]
        targets = np.repeat([0.0, 1.0], [len(each) for each in rows])
        return cls(_fitted(np.concatenate(rows), targets))

    def append(self, graph: GraphBuilder, features: str, size: Size) -> Scored:
        """Append features → the logarithm of the odds that the image is bad."""
        pooled = _append_pooled(graph, features, size)
        weights = graph.constant(self.line.weights[:, None])
        odds = graph.add(
            "Add", graph.add("MatMul", pooled, weights), graph.constant(self.line.offset)
        )
        return Scored(None, graph.add("Reshape", odds, graph.constant([-1], np.int64)))


@dataclass(frozen=True)
class PatchHead:
    """Each patch by logistic regression on its features; an image is as bad as its worst patches.

    Which patches of a bad image are bad isn't known: those that look worst so far, chosen again
    after each fit (multiple-instance learning; Dietterich et al., "Solving the multiple instance
    problem with axis-parallel rectangles", Artificial Intelligence 89, 1997).
    """

    has_map: ClassVar[bool] = True

    line: logistic.Line  # over (channels,)

    @classmethod
    def fit(cls, good: Features, bad: Features, random: np.random.Generator) -> PatchHead:
        """Learn from views of good images, and of bad ones."""
        most = min(MOST_IMAGES, max(MOST_BYTES // good.bytes_of_view, 1))
        normal, suspect = (_patches(each.at_most(most).all()) for each in (good, bad))
        scaling = _Scaling.of(normal.reshape(-1, normal.shape[2]))
        normal, suspect = scaling.apply(normal), scaling.apply(suspect)
        common = normal.reshape(-1, normal.shape[2])
        common = common[random.choice(len(common), min(COMMON, len(common)), replace=False)]
        worse = [np.square(each).mean(axis=2) for each in (normal, suspect)]
        for _ in range(ROUNDS):
            rows = [_worst(each, by) for each, by in zip((normal, suspect), worse)]
            inputs = np.concatenate((common, *rows))
            targets = np.repeat([0.0, 1.0], [len(common) + len(rows[0]), len(rows[1])])
            line = logistic.fit(inputs, targets, RIDGE)
            weights = line.weights.astype(np.float32)  # of the patches' own kind: ten times as fast
            worse = [each @ weights for each in (normal, suspect)]
        return cls(scaling.unscaled(line))

    def append(self, graph: GraphBuilder, features: str, size: Size) -> Scored:
        """Append features → each patch's odds (logarithm), and the mean of the PEAKS highest."""
        weights = self.line.weights.astype(np.float32)[None, :, None, None]
        odds = graph.add("Add", graph.conv(features, weights), graph.constant(self.line.offset))
        shape = graph.constant([0, size[0] * size[1]], np.int64)
        peaks = graph.top(graph.add("Reshape", odds, shape), PEAKS)
        return Scored(odds, graph.add("ReduceMean", peaks, axes=[1], keepdims=0))


class _Scaling(NamedTuple):
    """Makes inputs (…, d) of mean 0 and deviation 1."""

    mean: Floats
    deviation: Floats

    @classmethod
    def of(cls, rows: Floats) -> _Scaling:
        deviation = rows.std(axis=0)
        floor = LEAST_DEVIATION * np.median(deviation) + 1e-9
        return cls(rows.mean(axis=0), np.maximum(deviation, floor))

    def apply(self, rows: Floats) -> Floats:
        return (rows - self.mean) / self.deviation

    def unscaled(self, line: logistic.Line) -> logistic.Line:
        """Return the same line for inputs that aren't scaled."""
        weights = line.weights / self.deviation
        return logistic.Line(weights, line.offset - float(weights @ self.mean))


def _fitted(rows: Floats, targets: NDArray[np.float64]) -> logistic.Line:
    scaling = _Scaling.of(rows)
    return scaling.unscaled(logistic.fit(scaling.apply(rows), targets, RIDGE))


def _append_pooled(graph: GraphBuilder, features: str, size: Size) -> str:
    """Append features (N, C, rows, columns) → mean, highest, lowest, deviation (N, 4 C)."""
    flat = graph.add("Reshape", features, graph.constant([0, 0, size[0] * size[1]], np.int64))
    count = max(round(SHARE * size[0] * size[1]), 1)
    mean = graph.add("ReduceMean", flat, axes=[2], keepdims=0)
    highest = graph.add("ReduceMean", graph.top(flat, count), axes=[2], keepdims=0)
    negative = graph.top(graph.add("Neg", flat), count)
    lowest = graph.add("Neg", graph.add("ReduceMean", negative, axes=[2], keepdims=0))
    power = graph.add("ReduceMean", graph.add("Mul", flat, flat), axes=[2], keepdims=0)
    variance = graph.add("Relu", graph.add("Sub", power, graph.add("Mul", mean, mean)))
    return graph.add("Concat", mean, highest, lowest, graph.add("Sqrt", variance), axis=1)


def _patches(features: Floats) -> Floats:
    """Return features (n, channels, rows, columns) as (n, patches, channels)."""
    return features.reshape(*features.shape[:2], -1).transpose(0, 2, 1)


def _worst(patches: Floats, by: Floats) -> Floats:
    """Return the SUSPECTS patches of each image (n, m, d) that are highest in `by` (n, m)."""
    chosen = np.argsort(by, axis=1)[:, -SUSPECTS:]
    return np.take_along_axis(patches, chosen[:, :, None], axis=1).reshape(-1, patches.shape[2])
