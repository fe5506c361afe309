"""Scores of images that a head has not seen, by folds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, Tuple

import cv2
import numpy as np

from edge_agent.training.augmentation import USUAL
from edge_agent.training.evidence import FOLDS, Evidence, Features
from edge_agent.training.graph import BATCH, GraphBuilder, Session, Size
from edge_agent.training.head import (
    Bank,
    BankOptions,
    NearestHead,
    Norm,
    Scored,
    Usual,
    append_standardised,
    distance_model,
    excess_model,
    score_model,
)
from edge_agent.training.sample import Sample

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

SMOOTH = 2.0  # sigma in patches, of what is usual at each place: few images know it roughly
LEAST_DEVIATION = 1e-3


class Head(Protocol):
    """Judges the features of an image."""

    def append(self, graph: GraphBuilder, features: str, size: Size) -> Scored:
        """Append features (N, channels, rows, columns), of `size` rows and columns → Scored."""


class LabelledKind(Protocol):
    """A kind of head that learns from bad images too."""

    has_map: bool

    def fit(self, good: Features, bad: Features, random: np.random.Generator) -> Head:
        """Learn from features of views of good images, and of bad ones."""


@dataclass(frozen=True)
class Standardised:
    """A head whose map and score are in robust deviations of good images' scores."""

    head: Head
    usual: Usual

    def append(self, graph: GraphBuilder, features: str, size: Size) -> Scored:
        """Append features → Scored."""
        map_, score = self.head.append(graph, features, size)
        return Scored(
            None if map_ is None else append_standardised(graph, map_, self.usual),
            append_standardised(graph, score, self.usual),
        )


@dataclass(frozen=True)
class Validated:
    """A head fitted on all images, and the result of its cross-validation.

    normal, anomaly, synthetic: of good images, of bad ones, of good ones with artificial defects,
    and of copies of these changed as usual; each scored by a head that saw no view of its part.
    """

    head: Head
    has_map: bool
    normal: Sample
    anomaly: Sample
    synthetic: Sample


def validate(evidence: Evidence, options: BankOptions, seed: int, level: int) -> Validated:
    """Fit on good images and copies up to `level`, and score all by banks that saw neither."""
    distances = [_blank(each) for each in evidence.kinds]
    normal = evidence.normal
    remembered = normal.levels <= level
    for fold in range(FOLDS):
        known = remembered & (normal.folds != fold)
        session = Session(
            distance_model(_fit(evidence.patches[known], options, seed), normal.shape[1:])
        )
        for features, target in zip(evidence.kinds, distances):
            unseen = features.folds == fold
            target[unseen] = features.some(unseen).judge(session, "distance")
    norm = _norm(distances[0][normal.levels <= USUAL])
    scores = Session(score_model(norm))
    return _validated(
        NearestHead(_fit(evidence.patches[remembered], options, seed), norm),
        True,
        evidence,
        *(scores.run_all("distance", each)["score"] for each in distances),
    )


def validate_labelled(evidence: Evidence, kind: LabelledKind, seed: int) -> Validated:
    """Fit on good and bad images, and score all by heads fitted without them."""
    scores = [np.zeros(len(each), np.float32) for each in evidence.kinds]
    normal, anomaly, _ = evidence.kinds
    for fold in range(FOLDS):
        good, bad = (each.some(each.folds != fold) for each in (normal, anomaly))
        head = kind.fit(good, bad, np.random.default_rng(seed))
        session = Session(_head_model(head, normal.shape))
        for features, target in zip(evidence.kinds, scores):
            unseen = features.folds == fold
            target[unseen] = features.some(unseen).judge(session, "score")
    usual = _usual(scores[0][normal.levels <= USUAL])
    return _validated(
        Standardised(kind.fit(normal, anomaly, np.random.default_rng(seed)), usual),
        kind.has_map,
        evidence,
        *((each - usual.median) / np.float32(usual.deviation) for each in scores),
    )


def _validated(head: Head, has_map: bool, evidence: Evidence, *scores: Floats) -> Validated:
    normal, anomaly, synthetic = (
        Sample(each[usual], features.levels[usual], features.parts[usual])
        for each, features in zip(scores, evidence.kinds)
        for usual in (features.levels <= USUAL,)
    )
    return Validated(head, has_map, normal, anomaly, synthetic)


def _head_model(head: Head, shape: Tuple[int, int, int]) -> bytes:
    """Build the graph `features` → `score` alone; shape: of features, as in Features."""
    graph = GraphBuilder()
    features = graph.input("features", np.float32, (BATCH, *shape))
    graph.output("score", head.append(graph, features, shape[1:]).score, (BATCH,))
    return graph.model()


def robust_deviation(values: Floats) -> Floats:
    """Return the median absolute deviation along the first axis, as a standard deviation."""
    away = np.abs(values - np.median(values, axis=0))
    return np.asarray(1.4826 * np.median(away, axis=0), np.float32)


def _blank(features: Features) -> Floats:
    """Return room for the distances (v, 1, rows, columns) of `features`."""
    return np.zeros((len(features), 1, *features.shape[1:]), np.float32)


def _fit(patches: Floats, options: BankOptions, seed: int) -> Bank:
    flat = patches.reshape(-1, patches.shape[2])
    return Bank.fit(flat, options, np.random.default_rng(seed))


def _norm(distances: Floats) -> Norm:
    """Return what is usual of unseen good images' distances (n, 1, rows, columns)."""
    usual = cv2.GaussianBlur(distances.mean(axis=(0, 1)), (0, 0), SMOOTH)
    figures = Session(excess_model(usual)).run_all("distance", distances)
    return Norm(usual, _usual(figures["peak"]), _usual(figures["mean"]))


def _usual(values: Floats) -> Usual:
    return Usual(float(np.median(values)), max(float(robust_deviation(values)), LEAST_DEVIATION))
