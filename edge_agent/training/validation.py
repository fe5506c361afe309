"""Scores of images that a head has not seen, by folds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, List, Protocol, Sequence, Tuple

import cv2
import numpy as np

from edge_agent.training.augmentation import USUAL
from edge_agent.training.evidence import FOLDS, Evidence, Features, some_patches
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
from edge_agent.training.sample import Sample, robust_deviation

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
    """A head fitted on all images it may learn from, and its cross-validation.

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
    judged = _as_usual(evidence)
    distances = [_blank(each) for each in judged]
    known = evidence.normal.some(evidence.normal.levels <= level)
    patches = some_patches(known, np.random.default_rng(seed))
    for fold in range(FOLDS):
        bank = _fit(patches[known.folds != fold], options, seed)
        session = Session(distance_model(bank, known.shape[1:]))
        for features, target in zip(judged, distances):
            unseen = features.folds == fold
            target[unseen] = features.some(unseen).judge(session, "distance")
    norm = _norm(distances[0])
    scores = Session(score_model(norm))
    return _validated(
        NearestHead(_fit(patches, options, seed), norm),
        True,
        judged,
        *(scores.run_all("distance", each)["score"] for each in distances),
    )


def validate_labelled(evidence: Evidence, kind: LabelledKind, seed: int) -> Validated:
    """Fit on good and bad images, and score all by heads fitted without them."""
    judged = _as_usual(evidence)
    scores = [np.zeros(len(each), np.float32) for each in judged]
    normal, anomaly = evidence.normal, evidence.anomaly
    for fold in range(FOLDS):
        good, bad = (each.some(each.folds != fold) for each in (normal, anomaly))
        head = kind.fit(good, bad, np.random.default_rng(seed))
        session = Session(_head_model(head, normal.shape))
        for features, target in zip(judged, scores):
            unseen = features.folds == fold
            target[unseen] = features.some(unseen).judge(session, "score")
    usual = _usual(scores[0])
    return _validated(
        Standardised(kind.fit(normal, anomaly, np.random.default_rng(seed)), usual),
        kind.has_map,
        judged,
        *((each - usual.median) / np.float32(usual.deviation) for each in scores),
    )


def _as_usual(evidence: Evidence) -> List[Features]:
    """Return what is judged: images as taken and copies changed as usual, of each kind."""
    return [each.some(each.levels <= USUAL) for each in evidence.kinds]


def _validated(head: Head, has_map: bool, judged: Sequence[Features], *scores: Floats) -> Validated:
    normal, anomaly, synthetic = (
        Sample(each, features.levels, features.parts) for each, features in zip(scores, judged)
    )
    return Validated(head, has_map, normal, anomaly, synthetic)


def _head_model(head: Head, shape: Tuple[int, int, int]) -> bytes:
    """Build the graph `features` → `score` alone; shape: of features, as in Features."""
    graph = GraphBuilder()
    features = graph.input("features", np.float32, (BATCH, *shape))
    graph.output("score", head.append(graph, features, shape[1:]).score, (BATCH,))
    return graph.model()


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
