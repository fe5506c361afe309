"""Scores of images that a memory has not seen, by folds over the good ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

from edge_agent.training.evidence import Evidence
from edge_agent.training.graph import Session
from edge_agent.training.head import (
    Bank,
    BankOptions,
    Norm,
    Usual,
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


@dataclass(frozen=True)
class Validated:
    """A bank fitted on all good images, and the result of its cross-validation.

    normal, anomaly, synthetic: raw scores (n,) of good images, of bad ones and of good ones with
    artificial defects; each by banks that saw neither the image nor the one it was made of.
    """

    bank: Bank
    norm: Norm
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
    for fold in np.array_split(np.arange(len(normal)), FOLDS):
        bank = _fit(np.delete(evidence.patches, fold, axis=0), options, seed)
        session = Session(distance_model(bank, (normal.shape[2], normal.shape[3])))
        made = np.isin(evidence.sources, fold)
        normal[fold] = _distances(session, evidence.normal[fold])
        synthetic[made] = _distances(session, evidence.synthetic[made])
        anomaly += _distances(session, evidence.anomaly) / FOLDS
    norm = _norm(normal)
    scores = Session(score_model(norm))
    return Validated(
        _fit(evidence.patches, options, seed),
        norm,
        *(
            scores.run_all("distance", distances)["score"]
            for distances in (normal, anomaly, synthetic)
        ),
    )


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
