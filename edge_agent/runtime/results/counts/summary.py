"""What one model did in a period, and when periods end."""

from __future__ import annotations

import json
from datetime import datetime, time, timedelta
from typing import Any, Dict, List, Optional

from pydantic import ConfigDict, Field
from typing_extensions import Annotated

from edge_agent.fields import Strict
from edge_agent.types import BACKGROUND_NAME, Prediction

BINS = 20
EDGES = [edge / BINS for edge in range(BINS + 1)]
TYPES_BYTES = 4000  # of a summary's body; with everything else it stays below 7,000
HOUR = timedelta(hours=1)

Count = Annotated[int, Field(ge=0)]


class Counts(Strict):
    """The frames of one model since its period began.

    frames: all; those whose picture has a camera problem are neither normal nor anomalous.
    anomalies: anomalous frames by anomaly type. scores: of normal and anomalous frames, between
    the EDGES.
    """

    model_config = ConfigDict(frozen=False)

    frames: Count = 0
    normal: Count = 0
    anomalous: Count = 0
    anomalies: Dict[str, Count] = Field(default_factory=dict)
    camera_problems: Dict[str, Count] = Field(default_factory=dict)
    scores: Annotated[List[Count], Field(min_length=BINS, max_length=BINS)] = Field(
        default_factory=lambda: [0] * BINS
    )

    def add(self, prediction: Prediction) -> None:
        """Count one frame."""
        self.frames += 1
        for problem in prediction.camera_problems:
            _count(self.camera_problems, problem.value)
        if prediction.camera_problems:
            return
        self.scores[min(int(prediction.score * BINS), BINS - 1)] += 1
        if not prediction.is_anomalous:
            self.normal += 1
            return
        self.anomalous += 1
        for anomaly in prediction.anomalies:
            if anomaly.name != BACKGROUND_NAME:
                _count(self.anomalies, anomaly.name)

    def body(self, began: datetime, ended: datetime) -> Dict[str, Any]:
        """Return the summary as JSON has it; the rarest types are left out of one too long."""
        types = sorted(self.anomalies.items(), key=lambda item: -item[1])
        kept = len(types)
        while kept and len(json.dumps(dict(types[:kept]))) > TYPES_BYTES:
            kept -= 1
        values = {
            "from": began.astimezone().isoformat(timespec="seconds"),
            "to": ended.astimezone().isoformat(timespec="seconds"),
            "frames": self.frames,
            "normal": self.normal,
            "anomalous": self.anomalous,
            "anomalies": dict(types[:kept]),
            "camera_problems": self.camera_problems,
            "scores": {"edges": EDGES, "counts": self.scores},
        }
        if kept < len(types):
            values["cut"] = {"anomalies": len(types) - kept}
        return values


class Schedule:
    """When periods end, by local time: "hour", "none", or times of day as "06:00,14:00,22:00".

    Local is what the system's time zone says at that moment: a shift keeps its time of day when
    clocks change, and a repeated hour is a period of its own.
    """

    def __init__(self, summary: str) -> None:
        self._hourly = summary == "hour"
        times = [] if summary in ("hour", "none") else summary.split(",")
        self._times = [time.fromisoformat(text) for text in times]

    def end_after(self, moment: datetime) -> Optional[datetime]:
        """Return the first end of a period after `moment`; None: periods never end."""
        local = moment.astimezone()
        if self._hourly:
            return (local.replace(minute=0, second=0, microsecond=0) + HOUR).astimezone()
        days = [local.date() + timedelta(days=ahead) for ahead in range(3)]
        ends = (datetime.combine(day, at).astimezone() for day in days for at in self._times)
        return min((end for end in ends if end > moment), default=None)


def _count(counts: Dict[str, int], name: str) -> None:
    counts[name] = counts.get(name, 0) + 1
