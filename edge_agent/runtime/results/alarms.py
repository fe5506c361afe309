"""The alarms of one model, each raised once and ended once; drift of the scores from training."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import asdict, dataclass
from typing import Deque, Dict, Iterable, Iterator, List, Mapping, Optional, Sequence

import numpy as np

from edge_agent.manifest import Histogram
from edge_agent.types import Prediction

FRAMES = 500  # in the window: all for the rate of anomalies, good ones for drift
LEAST_FRAMES = 100  # for a rate

# An alarm ends clearly below its limit, or values around the limit would raise and end it in turns.
# A distance stays above 0 for good, because training saw few images; a rate whose cause is repaired
# falls below half of any sensible limit.
DRIFT_ENDS_AT, RATE_ENDS_AT = 0.8, 0.5

LEAST_SCORES = 250  # for drift
# A smaller shift doesn't matter, even if it is certain: training's scores are of pictures left out
# in turn, and without any drift lie up to 0.38 from those of new ones (six packages of the demo's
# parts). A lamp 20 % weaker, 15 % stronger, or a lens out of focus made 0.56 to 0.90.
LEAST_DISTANCE = 0.4
ALPHA = 1e-4
FACTOR = math.sqrt(-math.log(ALPHA / 2.0) / 2.0)


@dataclass(frozen=True)
class _AlarmCheck:
    """An alarm is raised when `value` reaches `limit`, ended when it is below `ends_below`."""

    alarm: str
    value: float
    limit: float
    ends_below: float
    facts: Mapping[str, object]
    message: str


class Alarms:
    """Owns the window of the last frames, all of one version with one threshold.

    Frames with a camera problem say nothing about the parts and don't count. `raised`: the alarms
    raised so far. Used under its owner's lock.
    """

    def __init__(self, raised: Iterable[str] = ()) -> None:
        self._verdicts: Deque[bool] = deque(maxlen=FRAMES)
        self._good_scores: Deque[float] = deque(maxlen=FRAMES)
        self._judged_by = ("", 0.0)  # version, threshold
        self._trained: Optional[Histogram] = None
        self._is_fresh = False
        self.raised: List[str] = list(raised)
        self.distance: Optional[float] = None  # of the scores to training's, at the last check

    def add(self, trained: Optional[Histogram], prediction: Prediction) -> None:
        """Add one frame; `trained`: the scores of training's good images."""
        if prediction.camera_problems:
            return
        judged_by = (prediction.model_version, prediction.threshold)
        if trained is not self._trained or judged_by != self._judged_by:
            self._verdicts.clear()
            self._good_scores.clear()
            self._trained, self._judged_by = trained, judged_by
        self._verdicts.append(prediction.is_anomalous)
        if not prediction.is_anomalous:
            self._good_scores.append(prediction.score)
        self._is_fresh = True

    def check(self, rate_limit: float) -> List[Dict[str, object]]:
        """Return the bodies of the alarms that were raised or ended since the last check.

        `rate_limit`: the share of anomalous frames that raises one.
        """
        if not self._is_fresh:
            return []
        self._is_fresh = False
        changes = ((check_, self._change_state(check_)) for check_ in self._checks(rate_limit))
        return [
            {"alarm": check_.alarm, "state": state, **check_.facts, "message": check_.message}
            for check_, state in changes
            if state
        ]

    def _change_state(self, check_: _AlarmCheck) -> str:
        is_raised = check_.alarm in self.raised
        if not is_raised and check_.value >= check_.limit:
            self.raised.append(check_.alarm)
            return "raised"
        if is_raised and check_.value < check_.ends_below:
            self.raised.remove(check_.alarm)
            return "ended"
        return ""

    def _checks(self, rate_limit: float) -> Iterator[_AlarmCheck]:
        count = len(self._verdicts)
        if count >= LEAST_FRAMES:
            yield _rate_check(sum(self._verdicts) / count, count, rate_limit)
        if self._trained is not None:
            drift = compare(self._trained, tuple(self._good_scores), self._judged_by[1])
            self.distance = drift.distance if drift else None
            if drift:
                yield _drift_check(drift)


def _rate_check(rate: float, frames: int, limit: float) -> _AlarmCheck:
    facts = {"rate": rate, "limit": limit, "frames": frames}
    message = (
        f"{rate:.0%} of the last {frames} frames are anomalous; the alarm's limit is {limit:.0%}."
    )
    return _AlarmCheck("anomaly-rate", rate, limit, RATE_ENDS_AT * limit, facts, message)


def _drift_check(drift: Drift) -> _AlarmCheck:
    message = (
        f"The scores of good parts are {'higher' if drift.higher else 'lower'} than in training: "
        f"distance {drift.distance:.2f}, the alarm's limit is {drift.critical:.2f}. Check light, "
        "lens and camera. If the parts have changed, train the model again."
    )
    ends_below = DRIFT_ENDS_AT * drift.critical
    return _AlarmCheck(
        "score-drift", drift.distance, drift.critical, ends_below, asdict(drift), message
    )


@dataclass(frozen=True)
class Drift:
    """The distance, 0 to 1, between `scores` scores and those of `trained` images.

    From `critical` on it is significant; `higher`: than in training, else lower.
    """

    distance: float
    higher: bool
    critical: float
    scores: int
    trained: int


def compare(trained: Histogram, scores: Sequence[float], threshold: float) -> Optional[Drift]:
    """Compare with training, only scores below `threshold`; None: there are too few.

    That way it doesn't matter how many parts are bad. The distance is that of Kolmogorov and
    Smirnov between two samples, the largest difference of their cumulated shares, here at the
    histogram's edges; critical is what chance exceeds with the probability ALPHA (Smirnov, "Table
    for estimating the goodness of fit of empirical distributions", 1948), but LEAST_DISTANCE at
    least. Between edges the difference may be larger: the alarm comes rather late than falsely.
    """
    edges = np.asarray(trained.edges)
    edges = edges[: np.searchsorted(edges, threshold, side="right")]
    if len(edges) < 2:
        return None
    expected = np.cumsum(trained.counts[: len(edges) - 1])
    below = np.searchsorted(np.sort(scores), edges)
    found = below[1:] - below[0]
    n, m = int(found[-1]), int(expected[-1])
    if n < LEAST_SCORES or m < 1:
        return None
    differences = expected / m - found / n
    largest = float(differences[np.abs(differences).argmax()])
    critical = max(LEAST_DISTANCE, FACTOR * math.sqrt((n + m) / (n * m)))
    return Drift(abs(largest), largest > 0.0, critical, n, m)
