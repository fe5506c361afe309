"""What the verdicts say taken together: a summary at the end of each period, and alarms."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Callable, Dict, List, Optional, Tuple

from pydantic import AwareDatetime
from typing_extensions import Literal

from edge_agent import manifest
from edge_agent.config import ResultsSettings
from edge_agent.fields import Strict, read_json
from edge_agent.runtime.results.counts.alarms import Alarms
from edge_agent.runtime.results.counts.summary import Counts, Schedule
from edge_agent.types import Prediction

log = logging.getLogger(__name__)

CLOCK_SET_BACK = timedelta(hours=1)  # less is corrected without a word


@dataclass(frozen=True)
class Finding:
    """What is to be told of a model, once; `body` is JSON-able, below 6,000 bytes."""

    kind: Literal["summary", "alarm"]
    model: str
    body: Dict[str, Any]


class _Kept(Strict):
    model: str
    counts: Counts
    raised: Tuple[str, ...]


class _Snapshot(Strict):
    began: AwareDatetime
    seen: AwareDatetime
    models: Tuple[_Kept, ...]


@dataclass
class _Model:
    counts: Counts
    alarms: Alarms


class Statistics:
    """Counts every frame; one other thread asks once a second what is due.

    `on_drift` hears of each model's distance to training, 0 to 1; the first period begins at
    `began`, None: now. A clock that jumps makes periods of odd length, but no frame counts twice.
    """

    def __init__(
        self,
        settings: ResultsSettings,
        on_drift: Callable[[str, float], None] = lambda model, distance: None,
        began: Optional[datetime] = None,
    ) -> None:
        self._schedule = Schedule(settings.summary)
        self._rate_limit = settings.anomaly_rate_alarm
        self._on_drift = on_drift
        self._lock = threading.Lock()  # of all below
        self._models: Dict[str, _Model] = {}
        self._began = self._seen = began or datetime.now().astimezone()

    def follow(self, settings: ResultsSettings) -> None:
        """Raise alarms by another limit from now on; the summaries stay as they were."""
        self._rate_limit = settings.anomaly_rate_alarm

    def add(self, model: str, trained: manifest.Statistics, prediction: Prediction) -> None:
        """Count one verdict; any thread, some microseconds. `trained` is of the manifest."""
        with self._lock:
            known = self._models.get(model)
            if known is None:
                known = self._models[model] = _Model(Counts(), Alarms())
            known.counts.add(prediction)
            known.alarms.add(trained.normal_scores, prediction)

    def forget(self, model: str) -> None:
        """Let go of the latest frames and the alarms of a model that was removed."""
        with self._lock:
            if model in self._models:
                self._models[model].alarms = Alarms()

    def due(self, now: datetime) -> List[Finding]:
        """Return the summaries of a period that is over, and the alarms that began or ended."""
        findings = self._summaries(now)
        with self._lock:
            models = dict(self._models)
        for name, model in models.items():
            with self._lock:
                bodies, distance = model.alarms.look(self._rate_limit), model.alarms.distance
            findings.extend(Finding("alarm", name, body) for body in bodies)
            if distance is not None:
                self._on_drift(name, distance)
        return findings

    def snapshot(self) -> str:
        """Return the running period as text."""
        with self._lock:
            kept = tuple(
                _Kept(model=name, counts=model.counts, raised=tuple(model.alarms.raised))
                for name, model in self._models.items()
            )
            snapshot = _Snapshot(began=self._began, seen=self._seen, models=kept)
            return snapshot.model_dump_json()

    def restore(self, text: str) -> None:
        """Go on with the period of a snapshot, before the first frame.

        Empty text is none; a damaged one is left out and logged.
        """
        if not text:
            return
        try:
            snapshot = read_json(_Snapshot, text.encode())
        except ValueError as error:
            log.warning("The counts of the last run are damaged and left out: %s", error)
            return
        with self._lock:
            self._began, self._seen = snapshot.began, max(snapshot.seen, snapshot.began)
            for kept in snapshot.models:
                self._models[kept.model] = _Model(kept.counts, Alarms(kept.raised))

    def _summaries(self, now: datetime) -> List[Finding]:
        with self._lock:
            period = self._period(now)
            self._seen = now
            if period is None:
                return []
            counts = {name: model.counts for name, model in sorted(self._models.items())}
            for name, model in list(self._models.items()):
                model.counts = Counts()
                if not counts[name].frames and not model.alarms.raised:
                    del self._models[name]  # not used for a whole period
        return [
            Finding("summary", name, entry.body(*period))
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
