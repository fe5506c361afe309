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
class _Camera:
    """What came last from one camera for one model."""

    verdict: Tuple[bool, Tuple[CameraProblem, ...]] = (False, ())
    known: bool = False
    black: int = 0


@dataclass
class _Model:
    """When normal results went out, and what the rate limit leaves."""

    normal_at: float = -1e9
    tokens: float = 0.0
    since: float = 0.0


class Filter:
    """Decides frame by frame; may be asked on any thread."""

    def __init__(self, settings: ResultsSettings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._cameras: Dict[Tuple[str, str], _Camera] = {}
        self._models: Dict[str, _Model] = {}

    def passes(self, model: str, camera: str, prediction: Prediction, now: float) -> bool:
        """Tell whether the verdict is to be published; `now` in monotonic seconds."""
        with self._lock:
            if len(self._cameras) >= MOST_CAMERAS:
                self._cameras.clear()  # names are the callers'; their number is not ours to trust
            known = self._cameras.setdefault((model, camera), _Camera())
            state = self._models.setdefault(model, _Model(tokens=1.0, since=now))
            return self._wanted(known, state, prediction, now) and self._in_rate(state, now)

    def _wanted(self, camera: _Camera, model: _Model, prediction: Prediction, now: float) -> bool:
        problems = prediction.camera_problems
        if CameraProblem.BLACK in problems:
            camera.black += 1
            return camera.black == WARM_UP_FRAMES + 1  # it stays black: said once
        camera.black = 0
        verdict = (prediction.is_anomalous, problems)
        changed = not camera.known or verdict != camera.verdict
        camera.verdict, camera.known = verdict, True
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
