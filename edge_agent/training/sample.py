"""Scores of pictures of parts, of which some show the same part."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from edge_agent.training.augmentation import TAKEN

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]


class Sample(NamedTuple):
    """Raw scores (v,) of pictures of one label, each by a head that saw none of the same part.

    levels: (v,), 0 where it is as it was taken, and not a changed copy. parts: (v,), the part that
    each shows, counted from 0.
    """

    scores: NDArray[np.floating]
    levels: NDArray[np.intp]
    parts: NDArray[np.intp]

    @classmethod
    def of(cls, scores: NDArray[np.floating]) -> Sample:
        """Take scores (n,) of pictures of n parts, all as they were taken."""
        return cls(scores, np.zeros(len(scores), int), np.arange(len(scores)))

    @property
    def as_taken(self) -> NDArray[np.floating]:
        """Scores (n,) of the pictures as they were taken."""
        return np.asarray(self.scores[self.levels == TAKEN])

    @property
    def of_copies(self) -> NDArray[np.floating]:
        """Scores of the changed copies."""
        return np.asarray(self.scores[self.levels != TAKEN])

    def drawn(self, random: np.random.Generator) -> Sample:
        """Draw as many parts with replacement, each with all its pictures."""
        if not len(self.scores):
            return self
        count = int(self.parts.max()) + 1
        times = np.bincount(random.integers(0, count, count), minlength=count)[self.parts]
        return Sample(*(np.repeat(each, times) for each in self))


def robust_deviation(values: Floats) -> Floats:
    """Return the median absolute deviation along the first axis, as a standard deviation."""
    away = np.abs(values - np.median(values, axis=0))
    return np.asarray(1.4826 * np.median(away, axis=0), np.float32)
