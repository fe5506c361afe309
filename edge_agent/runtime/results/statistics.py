"""Statistics of the verdicts: a summary at the end of each period, and alarms."""

from __future__ import annotations

import json
import logging
import threading
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from typing import Callable, Dict, List, Optional, Tuple

from pydantic import AwareDatetime, ConfigDict, Field
from typing_extensions import Annotated, Literal

from edge_agent import manifest
from edge_agent.config import ResultsSettings
from edge_agent.fields import Strict, read_json
from edge_agent.runtime.results.alarms import Alarms
from edge_agent.types import BACKGROUND_NAME, Prediction

log = logging.getLogger(__name__)

CLOCK_SET_BACK = timedelta(hours=1)  # a smaller correction is ignored
BINS = 20
EDGES = [edge / BINS for edge in range(BINS + 1)]
TYPES_BYTES = 4000  # of a summary's body; with everything else it stays below 7,000
HOUR = timedelta(hours=1)

Count = Annotated[int, Field(ge=0)]


class WindowCounts(Strict):
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

    def body(self, began: datetime, ended: datetime) -> Dict[str, object]:
        """Return the summary for JSON; the rarest types are left out if it is too long."""
        types = sorted(self.anomalies.items(), key=lambda item: -item[1])
        count = len(types)
        while count and len(json.dumps(dict(types[:count]))) > TYPES_BYTES:
            count -= 1
        values = {
            "from": began.astimezone().isoformat(timespec="seconds"),
            "to": ended.astimezone().isoformat(timespec="seconds"),
            "frames": self.frames,
            "normal": self.normal,
            "anomalous": self.anomalous,
            "anomalies": dict(types[:count]),
            "camera_problems": self.camera_problems,
            "scores": {"edges": EDGES, "counts": self.scores},
        }
        if count < len(types):
            values["cut"] = {"anomalies": len(types) - count}
        return values


class SummarySchedule:
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


@dataclass(frozen=True)
class StatisticsEvent:
    """A summary or an alarm of a model, to be published; `body`: for JSON, below 6,000 bytes."""

    kind: Literal["summary", "alarm"]
    model: str
    body: Dict[str, object]


class _ModelSnapshot(Strict):
    model: str
    counts: WindowCounts
    raised: Tuple[str, ...]


class _Snapshot(Strict):
    began: AwareDatetime
    seen: AwareDatetime
    models: Tuple[_ModelSnapshot, ...]


@dataclass
class _Model:
    counts: WindowCounts
    alarms: Alarms


class ResultStatistics:
    """Counts every frame; one other thread calls `due` once a second.

    `on_drift` receives each model's distance to training, 0 to 1; the first period begins at
    `began`, None: now. A clock that jumps makes periods of odd length, but no frame counts twice.
    """

    def __init__(
        self,
        settings: ResultsSettings,
        on_drift: Callable[[str, float], None] = lambda model, distance: None,
        began: Optional[datetime] = None,
    ) -> None:
        self._schedule = SummarySchedule(settings.summary)
        self._rate_limit = settings.anomaly_rate_alarm
        self._on_drift = on_drift
        self._lock = threading.Lock()  # of all below
        self._models: Dict[str, _Model] = {}
        self._began = self._seen = began or datetime.now().astimezone()

    def apply_settings(self, settings: ResultsSettings) -> None:
        """Use another alarm limit from now on; the summaries stay as they were."""
        self._rate_limit = settings.anomaly_rate_alarm

    def add(self, model: str, trained: manifest.Statistics, prediction: Prediction) -> None:
        """Count one verdict; any thread, some microseconds. `trained` is of the manifest."""
        with self._lock:
            known = self._models.get(model)
            if known is None:
                known = self._models[model] = _Model(WindowCounts(), Alarms())
            known.counts.add(prediction)
            known.alarms.add(trained.normal_scores, prediction)

    def forget(self, model: str) -> None:
        """Drop the latest frames and the alarms of a model that was removed."""
        with self._lock:
            if model in self._models:
                self._models[model].alarms = Alarms()

    def due(self, now: datetime) -> List[StatisticsEvent]:
        """Return the summaries of a period that is over, and alarms that were raised or ended."""
        events = self._summaries(now)
        with self._lock:
            models = dict(self._models)
        for name, model in models.items():
            with self._lock:
                bodies, distance = model.alarms.check(self._rate_limit), model.alarms.distance
            events.extend(StatisticsEvent("alarm", name, body) for body in bodies)
            if distance is not None:
                self._on_drift(name, distance)
        return events

    def snapshot(self) -> str:
        """Return the current period as text."""
        with self._lock:
            snapshots = tuple(
                _ModelSnapshot(model=name, counts=model.counts, raised=tuple(model.alarms.raised))
                for name, model in self._models.items()
            )
            snapshot = _Snapshot(began=self._began, seen=self._seen, models=snapshots)
            return snapshot.model_dump_json()

    def restore(self, text: str) -> None:
        """Continue the period of a snapshot, before the first frame.

        Empty text is none; a damaged one is logged and ignored.
        """
        if not text:
            return
        try:
            snapshot = read_json(_Snapshot, text.encode())
        except ValueError as error:
            log.warning("The statistics of the last run are damaged and are ignored: %s", error)
            return
        with self._lock:
            self._began, self._seen = snapshot.began, max(snapshot.seen, snapshot.began)
            for each in snapshot.models:
                self._models[each.model] = _Model(each.counts, Alarms(each.raised))

    def _summaries(self, now: datetime) -> List[StatisticsEvent]:
        with self._lock:
            period = self._period(now)
            self._seen = now
            if period is None:
                return []
            counts = {name: model.counts for name, model in sorted(self._models.items())}
            for name, model in list(self._models.items()):
                model.counts = WindowCounts()
                if not counts[name].frames and not model.alarms.raised:
                    del self._models[name]  # no frame for a whole period
        return [
            StatisticsEvent("summary", name, entry.body(*period))
            for name, entry in counts.items()
            if entry.frames
        ]

    def _period(self, now: datetime) -> Optional[Tuple[datetime, datetime]]:
        """Return from when to when, if a period is over, and begin the next one."""
        began, end = self._began, self._schedule.end_after(self._began)
        if end is None:
            return None
        if began - now > CLOCK_SET_BACK:
            self._began = now
            return began, self._seen
        if now < end:
            return None
        next_end = self._schedule.end_after(end)
        self._began = now if next_end is None or next_end <= now else end
        return began, end
