"""Scores of images the bank has not seen, by folds over the good ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Sequence

import numpy as np

from edge_agent.evaluation import metrics
from edge_agent.training.evidence import Evidence
from edge_agent.training.graph import Session
from edge_agent.training.head import Bank, Norm, distance_model, peak_model, score_model

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

FOLDS = 5


@dataclass(frozen=True)
class Validated:
    """A bank fitted on all good images, and the result of its cross-validation.

    normal, anomaly, synthetic: raw scores (n,) of unseen good images, of bad ones and of good ones
    with artificial defects.
    """

    bank: Bank
    norm: Norm
    normal: Floats
    anomaly: Floats
    synthetic: Floats

    @property
    def auroc(self) -> float:
        """How well the bank ranks the labelled images."""
        return metrics.auroc(self.normal, self.anomaly)


def validate(evidence: Evidence, position_weight: float, seed: int) -> Validated:
    """Fit on the good images, and score each of them by a bank fitted without it.

    Folds are runs of neighbouring files: images taken one after the other look alike, and would
    vouch for each other.
    """
    unseen = np.concatenate(
        [
            _distances(
                _fit(np.delete(evidence.patches, fold, axis=0), position_weight, seed),
                evidence.normal[fold],
            )
            for fold in np.array_split(np.arange(len(evidence.normal)), FOLDS)
        ]
    )
    bank, norm = _fit(evidence.patches, position_weight, seed), _norm(unseen)
    normal, synthetic = _scores(norm, unseen), _scores(norm, _distances(bank, evidence.synthetic))
    if not len(evidence.anomaly):
        return Validated(bank, norm, normal, normal[:0], synthetic)
    anomaly = _scores(norm, _distances(bank, evidence.anomaly))
    return Validated(bank, norm, normal, anomaly, synthetic)


def choose(evidence: Evidence, position_weights: Sequence[float], seed: int) -> Validated:
    """Validate each position weight; return the one that ranks best, the first of equals."""
    candidates = [validate(evidence, weight, seed) for weight in position_weights]
    return max(candidates, key=lambda each: each.auroc)


def robust_deviation(values: Floats) -> Floats:
    """Return the median absolute deviation along the first axis, as a standard deviation."""
    away = np.abs(values - np.median(values, axis=0))
    return np.asarray(1.4826 * np.median(away, axis=0), np.float32)


def _fit(patches: Floats, position_weight: float, seed: int) -> Bank:
    flat = patches.reshape(-1, patches.shape[2])
    return Bank.fit(flat, position_weight, np.random.default_rng(seed))


def _distances(bank: Bank, features: Floats) -> Floats:
    model = distance_model(bank, (features.shape[2], features.shape[3]))
    return Session(model).run_all("features", features)["distance"]


def _scores(norm: Norm, distances: Floats) -> Floats:
    return Session(score_model(norm)).run_all("distance", distances)["score"]


def _norm(distances: Floats) -> Norm:
    """Return what is usual of unseen good images' distances (n, 1, rows, columns)."""
    usual = distances.mean(axis=(0, 1))
    peaks = Session(peak_model(usual)).run_all("distance", distances)["peaks"]
    spread = np.maximum(robust_deviation(peaks), np.float32(1e-3))
    return Norm(usual, np.median(peaks, axis=0).astype(np.float32), spread)
