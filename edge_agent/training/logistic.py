"""Logistic regression with a ridge, for few labels: both of them count the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.floating]

STEPS = 30
ENOUGH = 1e-6  # of a step, to end


class Line(NamedTuple):
    """What adds up to the logarithm of the odds: `weights` (d,) times the inputs, and `offset`."""

    weights: NDArray[np.float64]
    offset: float


def fit(inputs: Floats, targets: Floats, ridge: float) -> Line:
    """Fit inputs (n, d) of deviation about 1 to targets (n,) from 0 to 1, by Newton's method.

    The two kinds, above and below one half, have equal weight. ridge: on the mean of the squared
    weights' sum over d inputs, so that it means the same for few inputs and many.
    """
    count, width = inputs.shape
    scale = 1.0 / np.sqrt(width)
    rows = np.concatenate((inputs * scale, np.ones((count, 1))), axis=1).astype(np.float64)
    bad = targets > 0.5
    shares = np.where(bad, 0.5 / max(bad.sum(), 1), 0.5 / max((~bad).sum(), 1))
    penalty = np.append(np.full(width, ridge), 0.0)
    line = np.zeros(width + 1)
    for _ in range(STEPS):
        chances = 1.0 / (1.0 + np.exp(-np.clip(rows @ line, -30.0, 30.0)))
        gradient = rows.T @ (shares * (chances - targets)) + penalty * line
        curvature = (rows * (shares * chances * (1.0 - chances))[:, None]).T @ rows
        step = np.linalg.solve(curvature + np.diag(penalty + 1e-9), gradient)
        line -= step
        if np.abs(step).max() < ENOUGH:
            break
    return Line(line[:-1] * scale, float(line[-1]))
