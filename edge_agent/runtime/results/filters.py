"""Which verdicts become result events, by `results.publish`, `.heartbeat_s`, `.per_minute`."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Dict, Tuple

from edge_agent.config import ResultsSettings
from edge_agent.types import CameraProblem, Prediction

MOST_CAMERAS = 4096
WARM_UP_FRAMES = 10  # black in a row: old clients send such after a start

Camera = Tuple[str, str]  # the model and the caller's name
Shown = Tuple[bool, Tuple[CameraProblem, ...]]  # anomalous; problems


@dataclass
class _Model:
    """When a normal result was published, and what the rate limit leaves."""

    normal_at: float = -1e9
    tokens: float = 1.0
    since: float = 0.0


class WarmUps:
    """Counts black frames: old clients send some after a start, which count nowhere.

    A camera that stays black is reported once. Safe on any thread.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._black: Dict[Camera, int] = {}  # how many frames in a row

    def black(self, model: str, camera: str, prediction: Prediction) -> int:
        """Return how many black frames in a row this is, 0 when it isn't black."""
        is_black = CameraProblem.BLACK in prediction.camera_problems
        if not (is_black or self._black):
            return 0
        with self._lock:
            if not is_black:
                self._black.pop((model, camera), None)
                return 0
            if len(self._black) >= MOST_CAMERAS:
                self._black.clear()  # names come from callers: there may be any number
            count = self._black[model, camera] = self._black.get((model, camera), 0) + 1
            return count


class Filter:
    """Decides frame by frame; may be called on any thread."""

    def __init__(self, settings: ResultsSettings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._verdicts: Dict[Camera, Shown] = {}  # the last of each
        self._models: Dict[str, _Model] = {}
        self.withheld = 0  # results beyond the rate, since the start

    def apply_settings(self, settings: ResultsSettings) -> None:
        """Use other settings from the next verdict on.

        Another `publish` starts with what each camera shows next.
        """
        with self._lock:
            if settings.publish != self._settings.publish:
                self._verdicts.clear()
            self._settings = settings

    def passes(self, model: str, camera: str, prediction: Prediction, now: float) -> bool:
        """Whether the verdict is to be published; `now` in monotonic seconds."""
        settings = self._settings
        if settings.publish == "all" and not settings.per_minute:
            return True  # what most agents do, at the least cost
        with self._lock:
            if len(self._verdicts) >= MOST_CAMERAS:
                self._verdicts.clear()  # names come from callers: there may be any number
            full = _Model(tokens=float(self._settings.per_minute), since=now)
            known = self._models.setdefault(model, full)
            wanted = self._wanted((model, camera), known, prediction, now)
            passes = wanted and self._in_rate(known, prediction, now)
            if passes or self._settings.publish == "all":
                self._verdicts[model, camera] = _verdict(prediction)
            return passes

    def _wanted(self, camera: Camera, model: _Model, prediction: Prediction, now: float) -> bool:
        problems = prediction.camera_problems
        changed = self._verdicts.get(camera) != _verdict(prediction)
        publish = self._settings.publish
        wanted = publish == "all" or (
            changed if publish == "changes" or problems else prediction.is_anomalous
        )
        if not prediction.is_anomalous and not problems:
            heartbeat_s = self._settings.heartbeat_s
            wanted = wanted or bool(heartbeat_s and now - model.normal_at >= heartbeat_s)
            model.normal_at = now if wanted else model.normal_at
        return wanted

    def _in_rate(self, model: _Model, prediction: Prediction, now: float) -> bool:
        """Take from the model's budget a minute; normal results leave half of it to others."""
        per_minute = self._settings.per_minute
        if not per_minute:
            return True
        refill = (now - model.since) * per_minute / 60.0
        model.tokens, model.since = min(model.tokens + refill, float(per_minute)), now
        if model.tokens < (1.0 if prediction.is_anomalous else 1.0 + per_minute // 2):
            self.withheld += 1
            return False
        model.tokens -= 1.0
        return True


def _verdict(prediction: Prediction) -> Shown:
    return prediction.is_anomalous, prediction.camera_problems
