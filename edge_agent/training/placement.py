"""Where the threshold lies, how sure that is, and where the model is not sure: the grey band."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Iterator, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from edge_agent.errors import InvalidConfiguration
from edge_agent.manifest import Calibration, GreyBand
from edge_agent.training import calibration
from edge_agent.training.rates import LEVEL, ErrorRate, images_for, most_wrong, percent
from edge_agent.training.sample import Sample

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.floating]

DRAWS = 200  # of the bootstrap
WIDEST = 0.45  # of the grey band, each way from the middle


class Wanted(NamedTuple):
    """Shares, 0 to 1, of good images called anomalous and of bad ones called normal, at most."""

    max_overkill: Optional[float] = None
    max_escape: Optional[float] = None

    def check(self, bad: int) -> None:
        """Raise InvalidConfiguration when there are no bad images to say what escapes."""
        if self.max_escape is not None and not bad:
            raise InvalidConfiguration(
                "--max-escape needs bad images: without them nobody knows how many escape. Add a "
                "folder anomaly, or use --max-overkill."
            )


USUAL = Wanted()


@dataclass(frozen=True)
class Scores:
    """Of good images, of bad ones, and of good ones with artificial defects."""

    normal: Sample
    anomaly: Sample
    synthetic: Sample

    def drawn(self, random: np.random.Generator) -> Scores:
        """Draw as many parts of each with replacement."""
        kinds = (self.normal, self.anomaly, self.synthetic)
        return Scores(*(each.drawn(random) for each in kinds))


@dataclass(frozen=True)
class Placed:
    """A threshold: 0.5 of `calibration`. band: calibrated scores where it might lie as well."""

    calibration: Calibration
    band: GreyBand
    wanted: Wanted
    overkill: ErrorRate
    of_copies: Tuple[int, int]  # of good images: called anomalous, and how many there are
    escape: Optional[ErrorRate]  # None: there are no bad images
    reachable: Wanted  # the other share, where only one of `wanted` is kept

    def remarks(self) -> Iterator[str]:
        """Yield sentences for the user: what to expect of the threshold, and how sure that is."""
        if None not in self.reachable:
            yield (
                "Not both can be reached on these images: at most "
                f"{percent(self.wanted.max_overkill or 0.0)} overkill lets "
                f"{percent(self.reachable.max_escape or 0.0)} of the bad ones escape, and at most "
                f"{percent(self.wanted.max_escape or 0.0)} escape calls "
                f"{percent(self.reachable.max_overkill or 0.0)} of the good ones anomalous. The "
                "threshold keeps --max-escape."
            )
        words = "overkill (good parts called anomalous)"
        yield from _sentences(words, "good", self.overkill, self.wanted.max_overkill)
        wrong, count = self.of_copies
        if count:
            yield (
                f"In other light, place and focus: {wrong} of {count} changed copies of good "
                "images are called anomalous."
            )
        if self.escape is not None:
            words = "escape (bad parts called normal)"
            yield from _sentences(words, "bad", self.escape, self.wanted.max_escape)
        yield f"Scores from {self.band.low:.3f} to {self.band.high:.3f} count as unsure."


def place(scores: Scores, wanted: Wanted, seed: int) -> Placed:
    """Place the threshold, and the band in which it lies with LEVEL of confidence.

    The band is the bootstrap's: as wide each way as the threshold moves with other images (Efron,
    "Bootstrap methods: another look at the jackknife", 1979).
    """
    fitted = fit(scores, wanted)
    threshold = threshold_of(fitted)
    random = np.random.default_rng(seed)
    drawn = [threshold_of(fit(scores.drawn(random), wanted)) for _ in range(DRAWS)]
    anomaly, copies = scores.anomaly.as_taken, scores.normal.of_copies
    return Placed(
        fitted,
        band(fitted, drawn),
        wanted,
        overkill(scores.normal.as_taken, threshold),
        (int((copies >= threshold).sum()), len(copies)),
        ErrorRate(int((anomaly < threshold).sum()), len(anomaly)) if len(anomaly) else None,
        _trade_off(scores, wanted),
    )


def band(fitted: Calibration, drawn: Sequence[float], width: float = 0.0) -> GreyBand:
    """Return where the threshold of `fitted` lies with LEVEL of confidence, in calibrated scores.

    drawn: raw thresholds of the bootstrap. width: of a band, half of it, that this one is added to.
    """
    away = float(np.quantile(np.abs(np.subtract(drawn, threshold_of(fitted))), LEVEL))
    width += 1.0 / (1.0 + math.exp(-min(fitted.scale * away, 700.0))) - 0.5
    return GreyBand(low=round(0.5 - min(width, WIDEST), 4), high=round(0.5 + min(width, WIDEST), 4))


def fit(scores: Scores, wanted: Wanted) -> Calibration:
    """Return the sigmoid through the threshold that is wanted; its slope is that of the scores."""
    normal, anomaly, synthetic = _kinds(scores)
    if len(anomaly):
        usual = calibration.from_both(normal, anomaly)
    else:
        usual = calibration.from_normals(normal, synthetic)
    if wanted == USUAL:
        return usual
    threshold = _chosen(scores, threshold_of(usual), wanted)
    return Calibration(scale=usual.scale, shift=-usual.scale * threshold)


def overkill(normal: Floats, threshold: float) -> ErrorRate:
    """Return how many of the good images are called anomalous."""
    return ErrorRate(int((normal >= threshold).sum()), len(normal))


def _chosen(scores: Scores, usual: float, wanted: Wanted) -> float:
    """Return the threshold that keeps what is wanted, the escape before the overkill.

    Of one limit alone all that it allows is used where that helps against the other error.
    """
    lowest, highest = _limits(scores, wanted)
    if lowest > highest:
        return highest
    nearest = min(max(usual, lowest), highest)
    good, anomaly, synthetic = _kinds(scores)
    bad = anomaly if len(anomaly) else synthetic
    if wanted.max_escape is None and (bad < lowest).sum() < (bad < nearest).sum():
        return lowest
    if wanted.max_overkill is None and (good >= highest).sum() < (good >= nearest).sum():
        return highest
    return nearest


def _limits(scores: Scores, wanted: Wanted) -> Tuple[float, float]:
    """Return the lowest threshold that keeps the overkill and the highest that keeps the escape."""
    lowest, highest = -math.inf, math.inf
    if wanted.max_overkill is not None:
        lowest = _beyond(scores.normal.scores, wanted.max_overkill)
    if wanted.max_escape is not None:
        highest = -_beyond(-scores.anomaly.scores, wanted.max_escape)
    return lowest, highest


def _beyond(scores: Floats, share: float) -> float:
    """Return what at most `share` of new scores is expected to reach.

    In the middle between two scores, or beyond the highest as far as two are usually apart. Where
    there are too few scores to go by rank: where a normal distribution ends that is as wide as
    the middle half of them, but at the second highest or above, so that one odd image alone doesn't
    carry the threshold away.
    """
    ranked = np.sort(scores.astype(np.float64))[::-1]
    beyond_all = float(ranked[0]) + max(float(ranked[0] - ranked[-1]) / len(ranked), 1e-3)
    wrong = most_wrong(share, len(ranked))
    if wrong is None:
        low, middle, high = np.quantile(ranked, (0.25, 0.5, 0.75))
        unit = NormalDist()
        wide = (high - low) / (2.0 * unit.inv_cdf(0.75))
        end = float(middle + wide * unit.inv_cdf(1.0 - share))
        return min(max(end, float(ranked[:2][-1]) + 1e-3), beyond_all)
    last = float(ranked[min(wrong, len(ranked) - 1)])
    higher = ranked[ranked > last]
    return (last + float(higher[-1])) / 2.0 if len(higher) else beyond_all


def _trade_off(scores: Scores, wanted: Wanted) -> Wanted:
    """Return what each of both limits costs, if not both can be kept."""
    lowest, highest = _limits(scores, wanted)
    if lowest <= highest:
        return USUAL
    good, anomaly, _ = _kinds(scores)
    alarms, lost = (good >= highest).mean(), (anomaly < lowest).mean()
    if alarms <= (wanted.max_overkill or 0.0):  # few images: both limits are cautious
        return USUAL
    return Wanted(float(alarms), float(lost))


def _sentences(what: str, kind: str, rate: ErrorRate, wanted: Optional[float]) -> Iterator[str]:
    low, high = rate.interval
    more = rate.more_to_halve()
    curve = f"{more} more {kind} images would halve that interval" if more else ""
    yield (
        f"Expected {what}: {percent(min(rate.expected, 1.0))}, with {percent(LEVEL)} confidence "
        f"{percent(low)} to {percent(high)}: {rate.wrong} of {rate.count} {kind} images that were "
        f"not trained on. {curve}".rstrip()
        + "." * bool(curve)
    )
    if wanted is None or rate.at_most() <= wanted:
        return
    needed = images_for(wanted)
    if rate.count < needed:
        yield (
            f"{rate.count} {kind} images can't show that at most {percent(wanted)} are wrong: that "
            f"needs {needed} of which none is. They show at most {percent(rate.at_most())}."
        )


def threshold_of(fitted: Calibration) -> float:
    """Return the raw score that it makes 0.5."""
    return -fitted.shift / fitted.scale


def _kinds(scores: Scores) -> Tuple[Floats, Floats, Floats]:
    return scores.normal.scores, scores.anomaly.scores, scores.synthetic.scores
