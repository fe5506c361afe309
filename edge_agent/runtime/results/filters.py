"""Which verdicts become result events, by the settings `results.publish` and its companions."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Dict, Tuple

from edge_agent.config import ResultsSettings
from edge_agent.types import CameraProblem, Prediction

MOST_CAMERAS = 4096
WARM_UP_FRAMES = 10  # black in a row: old clients send such after a start


@dataclass
class _Model:
    """When normal results went out, and what the rate limit leaves."""

    normal_at: float = -1e9
    tokens: float = 1.0
    since: float = 0.0


Camera = Tuple[str, str]  # the model and the caller's name
Verdict = Tuple[bool, Tuple[CameraProblem, ...]]


class Filter:
    """Decides frame by frame; may be asked on any thread."""

    def __init__(self, settings: ResultsSettings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._black: Dict[Camera, int] = {}  # how many frames in a row
        self._verdicts: Dict[Camera, Verdict] = {}  # the last of each
        self._models: Dict[str, _Model] = {}

    def passes(self, model: str, camera: str, prediction: Prediction, now: float) -> bool:
        """Tell whether the verdict is to be published; `now` in monotonic seconds."""
        settings, problems = self._settings, prediction.camera_problems
        if settings.publish == "all" and not (settings.per_minute or problems or self._black):
            return True  # what most agents do, at the least cost
        with self._lock:
            if max(len(self._verdicts), len(self._black)) >= MOST_CAMERAS:
                self._verdicts.clear()  # names are the callers'; their number isn't to be trusted
                self._black.clear()
            known = self._models.setdefault(model, _Model(since=now))
            wanted = self._wanted((model, camera), known, prediction, now)
            return wanted and self._in_rate(known, now)

    def _wanted(self, camera: Camera, model: _Model, prediction: Prediction, now: float) -> bool:
        problems = prediction.camera_problems
        if CameraProblem.BLACK in problems:
            self._black[camera] = self._black.get(camera, 0) + 1
            return self._black[camera] == WARM_UP_FRAMES + 1  # it stays black: said once
        self._black.pop(camera, None)
        verdict = (prediction.is_anomalous, problems)
        changed = self._verdicts.get(camera) != verdict
        self._verdicts[camera] = verdict
        publish = self._settings.publish
        wanted = publish == "all" or (
            changed if publish == "changes" or problems else prediction.is_anomalous
        )
        if not prediction.is_anomalous and not problems:
            heartbeat_s = self._settings.heartbeat_s
            wanted = wanted or bool(heartbeat_s and now - model.normal_at >= heartbeat_s)
            model.normal_at = now if wanted else model.normal_at
        return wanted

    def _in_rate(self, model: _Model, now: float) -> bool:
        per_minute = self._settings.per_minute
        if not per_minute:
            return True
        refill = (now - model.since) * per_minute / 60.0
        model.tokens, model.since = min(model.tokens + refill, float(per_minute)), now
        if model.tokens < 1.0:
            return False
        model.tokens -= 1.0
        return True
