"""Scores of images that a head has not seen, by folds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, List, Protocol, Sequence

import cv2
import numpy as np

from edge_agent.training.evidence import Evidence
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

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

FOLDS = 5
SMOOTH = 2.0  # sigma in patches, of what is usual at each place: few images know it roughly
LEAST_DEVIATION = 1e-3


class Head(Protocol):
    """Judges the features of an image."""

    def append(self, graph: GraphBuilder, features: str, size: Size) -> Scored:
        """Append features (N, channels, rows, columns), of `size` rows and columns → Scored."""


class LabelledKind(Protocol):
    """A kind of head that learns from bad images too."""

    has_map: bool

    def fit(self, good: Floats, bad: Floats, random: np.random.Generator) -> Head:
        """Learn from features (n, channels, rows, columns)."""


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

    normal, anomaly, synthetic: scores (n,) of good images, of bad ones and of good ones with
    artificial defects; each by heads that saw neither the image nor the one it was made of.
    """

    head: Head
    has_map: bool
    normal: Floats
    anomaly: Floats
    synthetic: Floats


def validate(evidence: Evidence, options: BankOptions, seed: int) -> Validated:
    """Fit on the good images, and score each of them by a bank fitted without it.

    Folds are runs of neighbouring files: images taken one after the other look alike, and would
    vouch for each other.
    """
    normal, anomaly, synthetic = map(
        _blank, (evidence.normal, evidence.anomaly, evidence.synthetic)
    )
    for fold in _folds(len(normal)):
        bank = _fit(np.delete(evidence.patches, fold, axis=0), options, seed)
        session = Session(distance_model(bank, (normal.shape[2], normal.shape[3])))
        made = np.isin(evidence.sources, fold)
        normal[fold] = _distances(session, evidence.normal[fold])
        synthetic[made] = _distances(session, evidence.synthetic[made])
        anomaly += _distances(session, evidence.anomaly) / FOLDS
    norm = _norm(normal)
    scores = Session(score_model(norm))
    return Validated(
        NearestHead(_fit(evidence.patches, options, seed), norm),
        True,
        *(
            scores.run_all("distance", distances)["score"]
            for distances in (normal, anomaly, synthetic)
        ),
    )


def validate_labelled(evidence: Evidence, kind: LabelledKind, seed: int) -> Validated:
    """Fit on good and bad images, and score each of them by a head fitted without it."""
    scores = [np.zeros(len(each), np.float32) for each in evidence.images]
    for good, bad in zip(_folds(len(evidence.normal)), _folds(len(evidence.anomaly))):
        head = kind.fit(
            np.delete(evidence.normal, good, axis=0),
            np.delete(evidence.anomaly, bad, axis=0),
            np.random.default_rng(seed),
        )
        session = Session(_head_model(head, evidence.normal.shape))
        for target, features, unseen in zip(
            scores, evidence.images, (good, bad, np.isin(evidence.sources, good))
        ):
            target[unseen] = session.run_all("features", features[unseen])["score"]
    usual = _usual(scores[0])
    head = kind.fit(evidence.normal, evidence.anomaly, np.random.default_rng(seed))
    return Validated(
        Standardised(head, usual),
        kind.has_map,
        *((each - usual.median) / np.float32(usual.deviation) for each in scores),
    )


def _folds(count: int) -> List[NDArray[np.intp]]:
    return np.array_split(np.arange(count), FOLDS)


def _head_model(head: Head, shape: Sequence[int]) -> bytes:
    """Build the graph `features` → `score` alone; shape: of features, as in Evidence."""
    graph = GraphBuilder()
    features = graph.input("features", np.float32, (BATCH, *shape[1:]))
    graph.output("score", head.append(graph, features, (shape[2], shape[3])).score, (BATCH,))
    return graph.model()


def robust_deviation(values: Floats) -> Floats:
    """Return the median absolute deviation along the first axis, as a standard deviation."""
    away = np.abs(values - np.median(values, axis=0))
    return np.asarray(1.4826 * np.median(away, axis=0), np.float32)


def _blank(features: Floats) -> Floats:
    """Return room for the distances (n, 1, rows, columns) of `features`."""
    return np.zeros((len(features), 1, *features.shape[2:]), np.float32)


def _fit(patches: Floats, options: BankOptions, seed: int) -> Bank:
    flat = patches.reshape(-1, patches.shape[2])
    return Bank.fit(flat, options, np.random.default_rng(seed))


def _distances(session: Session, features: Floats) -> Floats:
    return session.run_all("features", features)["distance"]


def _norm(distances: Floats) -> Norm:
    """Return what is usual of unseen good images' distances (n, 1, rows, columns)."""
    usual = cv2.GaussianBlur(distances.mean(axis=(0, 1)), (0, 0), SMOOTH)
    figures = Session(excess_model(usual)).run_all("distance", distances)
    return Norm(usual, _usual(figures["peak"]), _usual(figures["mean"]))


def _usual(values: Floats) -> Usual:
    return Usual(float(np.median(values)), max(float(robust_deviation(values)), LEAST_DEVIATION))
