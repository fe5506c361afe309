"""The alarms of one model: each is raised once, and ended once."""

from __future__ import annotations

from collections import deque
from dataclasses import asdict, dataclass
from typing import Any, Deque, Dict, Iterable, Iterator, List, Optional

from edge_agent.manifest import Histogram
from edge_agent.runtime.results.counts.drift import Drift, compare
from edge_agent.types import Prediction

FRAMES = 500  # that alarms look back: all for the rate of anomalies, good ones for drift
LEAST_FRAMES = 100  # fewer say nothing of the rate

# An alarm ends clearly below its limit, or values around the limit would raise and end it in turns.
# A distance stays above 0 for good, because training saw few images; a rate whose cause is mended
# falls below half of any limit that was set with sense.
DRIFT_ENDS_AT, RATE_ENDS_AT = 0.8, 0.5


@dataclass(frozen=True)
class _Reading:
    """An alarm is raised when `value` reaches `limit`, ended when it is below `ends_below`."""

    alarm: str
    value: float
    limit: float
    ends_below: float
    facts: Dict[str, Any]
    message: str


class Alarms:
    """Looks back at the last frames, as far as one version with one threshold judged them.

    Frames with a camera problem say nothing of the parts and aren't among them. `raised`: the
    alarms raised so far. Used under its owner's lock.
    """

    def __init__(self, raised: Iterable[str] = ()) -> None:
        self._verdicts: Deque[bool] = deque(maxlen=FRAMES)
        self._good_scores: Deque[float] = deque(maxlen=FRAMES)
        self._judged_by = ("", 0.0)  # version, threshold
        self._trained: Optional[Histogram] = None
        self._is_fresh = False
        self.raised: List[str] = list(raised)
        self.distance: Optional[float] = None  # of the scores to training's, at the last look

    def add(self, trained: Optional[Histogram], prediction: Prediction) -> None:
        """Take one more frame; `trained` are the scores of training's good images."""
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

    def look(self, rate_limit: float) -> List[Dict[str, Any]]:
        """Return the bodies of the alarms that were raised or ended since the last look.

        `rate_limit`: the share of anomalous frames that raises one.
        """
        if not self._is_fresh:
            return []
        self._is_fresh = False
        turned = ((reading, self._turn(reading)) for reading in self._readings(rate_limit))
        return [
            {"alarm": reading.alarm, "state": state, **reading.facts, "message": reading.message}
            for reading, state in turned
            if state
        ]

    def _turn(self, reading: _Reading) -> str:
        is_raised = reading.alarm in self.raised
        if not is_raised and reading.value >= reading.limit:
            self.raised.append(reading.alarm)
            return "raised"
        if is_raised and reading.value < reading.ends_below:
            self.raised.remove(reading.alarm)
            return "ended"
        return ""

    def _readings(self, rate_limit: float) -> Iterator[_Reading]:
        count = len(self._verdicts)
        if count >= LEAST_FRAMES:
            yield _rate_reading(sum(self._verdicts) / count, count, rate_limit)
        if self._trained is not None:
            drift = compare(self._trained, tuple(self._good_scores), self._judged_by[1])
            self.distance = drift.distance if drift else None
            if drift:
                yield _drift_reading(drift)


def _rate_reading(rate: float, frames: int, limit: float) -> _Reading:
    facts = {"rate": rate, "limit": limit, "frames": frames}
    message = (
        f"{rate:.0%} of the last {frames} frames are anomalous; the alarm's limit is {limit:.0%}."
    )
    return _Reading("anomaly-rate", rate, limit, RATE_ENDS_AT * limit, facts, message)


def _drift_reading(drift: Drift) -> _Reading:
    message = (
        f"The scores of good parts are {'higher' if drift.higher else 'lower'} than in training: "
        f"distance {drift.distance:.2f}, the alarm's limit is {drift.critical:.2f}. Check light, "
        "lens and camera; train anew when the parts have changed."
    )
    ends_below = DRIFT_ENDS_AT * drift.critical
    return _Reading(
        "score-drift", drift.distance, drift.critical, ends_below, asdict(drift), message
    )
