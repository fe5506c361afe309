"""Figures of merit of scores against labels. Ties count half, as a coin would decide them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Tuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


class PrecisionRecall(NamedTuple):
    """Precision, recall and their harmonic mean F1 of one set of verdicts; 0 where undefined."""

    precision: float
    recall: float
    f1: float


def auroc(normal: ArrayLike, anomaly: ArrayLike) -> float:
    """Return the chance that an anomaly scores above a normal (area under the ROC curve).

    Mann-Whitney U over the product of the counts; `normal` and `anomaly` hold one score an item.
    """
    low, high = np.sort(np.ravel(normal)), np.ravel(anomaly)
    if not low.size or not high.size:
        raise ValueError("AUROC needs at least one normal and one anomalous score")
    below = np.searchsorted(low, high, "left").sum(dtype=np.float64)
    not_above = np.searchsorted(low, high, "right").sum(dtype=np.float64)
    return float((below + not_above) / (2.0 * low.size * high.size))


def average_precision(normal: ArrayLike, anomaly: ArrayLike) -> float:
    """Return the sum of precision times the step in recall over all thresholds, highest first."""
    _, precision, recall = _curve(np.ravel(normal), np.ravel(anomaly))
    return float(np.sum(precision * np.diff(recall, prepend=0.0)))


def best_f1(normal: ArrayLike, anomaly: ArrayLike) -> Tuple[float, float]:
    """Return the highest F1 any threshold reaches and that threshold (anomalous from it on)."""
    scores, precision, recall = _curve(np.ravel(normal), np.ravel(anomaly))
    f1 = 2.0 * precision * recall / np.maximum(precision + recall, 1e-12)
    best = int(f1.argmax())
    return float(f1[best]), float(scores[best])


def precision_recall(normal: ArrayLike, anomaly: ArrayLike) -> PrecisionRecall:
    """Rate verdicts, True for "anomalous", on the normal and the anomalous items."""
    false_alarms, found = int(np.sum(normal)), int(np.sum(anomaly))
    precision = found / max(found + false_alarms, 1)
    recall = found / max(np.size(anomaly), 1)
    return PrecisionRecall(
        precision, recall, 2.0 * precision * recall / max(precision + recall, 1e-12)
    )


def _curve(
    normal: NDArray[np.floating], anomaly: NDArray[np.floating]
) -> Tuple[NDArray[np.floating], NDArray[np.floating], NDArray[np.floating]]:
    """Return every distinct score, highest first, with precision and recall from it on."""
    if not anomaly.size:
        raise ValueError("precision and recall need at least one anomalous score")
    scores = np.unique(np.concatenate((normal, anomaly)))[::-1]
    found = anomaly.size - np.searchsorted(np.sort(anomaly), scores, "left")
    alarms = normal.size - np.searchsorted(np.sort(normal), scores, "left")
    return scores, found / (found + alarms), found / anomaly.size
