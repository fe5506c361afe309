"""How often verdicts are wrong, how sure that is by so many images, and what more would tell."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Callable, Optional, Tuple

import numpy as np

LEVEL = 0.95  # of confidence
STEPS = 40  # of halving an interval of chances
MOST_TIMES = 6  # as many images as there are, in looking for how many more are needed


@dataclass(frozen=True)
class ErrorRate:
    """`wrong` of `count` images that were not trained on are called what they aren't."""

    wrong: int
    count: int

    @property
    def expected(self) -> float:
        """The share of new images that is wrong, for a threshold next to the last right score."""
        return (self.wrong + 1) / (self.count + 1)

    @property
    def interval(self) -> Tuple[float, float]:
        """The share of all images, within LEVEL.

        Clopper and Pearson, "The use of confidence or fiducial limits illustrated in the case of
        the binomial", 1934. Where the threshold is chosen by rank among the same scores these are
        the limits of Wilks, "Determination of sample sizes for setting tolerance limits", 1941, for
        any distribution of scores. Images taken one after the other know less than it says.
        """
        beyond = (1.0 - LEVEL) / 2.0
        low = _chance(lambda p: 1.0 - _at_most(self.wrong - 1, self.count, p) >= beyond)
        return (low if self.wrong else 0.0), self.at_most(beyond)

    @property
    def width(self) -> float:
        """Of the interval."""
        low, high = self.interval
        return high - low

    def at_most(self, beyond: float = 1.0 - LEVEL) -> float:
        """Return the share that is exceeded with a chance of `beyond`."""
        if self.wrong == self.count:
            return 1.0
        return _chance(lambda p: _at_most(self.wrong, self.count, p) <= beyond)

    def more_to_halve(self) -> Optional[int]:
        """Return how many more images would halve the interval; None: more than is practical.

        That is a point of the learning curve: of more images the same share would be wrong.
        """
        share, half = self.wrong / self.count, self.width / 2.0

        def is_enough(count: int) -> bool:
            return ErrorRate(round(share * count), count).width <= half

        fewest, most = self.count, MOST_TIMES * self.count
        if not is_enough(most):
            return None
        while most - fewest > 1:
            middle = (fewest + most) // 2
            fewest, most = (fewest, middle) if is_enough(middle) else (middle, most)
        return most - self.count


def most_wrong(share: float, count: int) -> Optional[int]:
    """Return how many of `count` images may be wrong, so that `share` of new ones are expected.

    None: so few images can't tell such a share.
    """
    most = math.floor(share * (count + 1) + 1e-9) - 1
    return min(most, count) if most >= 0 else None


def images_for(share: float) -> int:
    """Return how many images, none of them wrong, show with LEVEL that at most `share` are."""
    return math.ceil(math.log(1.0 - LEVEL) / math.log1p(-share))


def percent(share: float) -> str:
    """Return it for people: "2.5 %"."""
    return f"{100 * share:.3g} %" if share >= 0.001 else f"{100 * share:.2f} %"


def _at_most(wrong: int, count: int, chance: float) -> float:
    """Return the chance of at most `wrong` of `count`, each wrong with `chance` in (0, 1)."""
    numbers = np.arange(1, wrong + 1)
    ways = np.concatenate(([0.0], np.cumsum(np.log((count - numbers + 1) / numbers))))
    kinds = np.arange(wrong + 1)
    logarithms = ways + kinds * math.log(chance) + (count - kinds) * math.log1p(-chance)
    return min(float(np.exp(logarithms).sum()), 1.0)


def _chance(is_reached: Callable[[float], bool]) -> float:
    """Return the lowest chance from which on `is_reached`."""
    low, high = 0.0, 1.0
    for _ in range(STEPS):
        middle = (low + high) / 2.0
        low, high = (low, middle) if is_reached(middle) else (middle, high)
    return high
