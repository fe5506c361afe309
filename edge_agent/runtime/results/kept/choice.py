"""Which frames are worth keeping. Decides in microseconds and touches no file."""

from __future__ import annotations

import random
import threading
from collections import deque
from typing import Callable, Deque, Dict

from edge_agent.config import CaptureSettings
from edge_agent.runtime.results.kept.shot import ANOMALY, CAMERA_PROBLEM, NEAR_THRESHOLD, SAMPLE
from edge_agent.types import CameraProblem, Prediction

MINUTE_S = 60.0
CAMERA_PROBLEM_EVERY_S = 60.0  # of each model; the first tells as much as hundreds

# What the last minute must leave free, as a share of its limit, so that anomalies find room.
LEFT_FREE = {ANOMALY: 0.0, NEAR_THRESHOLD: 0.25, SAMPLE: 0.5, CAMERA_PROBLEM: 0.5}


class CaptureChoice:
    """Chooses by verdict and chance, within a limit a minute for each model; for any thread."""

    def __init__(
        self, settings: CaptureSettings, random: random.Random, clock: Callable[[], float]
    ) -> None:
        self._settings = settings
        self._random = random
        self._clock = clock
        self._lock = threading.Lock()
        self._last_minute: Dict[str, Deque[float]] = {}  # of each model
        self._last_problem: Dict[str, float] = {}

    def follow(self, settings: CaptureSettings) -> None:
        """Choose by other settings from the next frame on."""
        self._settings = settings

    def choose(self, model: str, prediction: Prediction) -> str:
        """Return why the frame shall be kept, "" when it needn't be."""
        reason = self._reason(prediction)
        return reason if reason and self._admits(model, reason) else ""

    def _reason(self, prediction: Prediction) -> str:
        problems = prediction.camera_problems
        if problems:
            return "" if CameraProblem.BLACK in problems else CAMERA_PROBLEM
        if prediction.is_anomalous and self._settings.anomalies:
            return ANOMALY
        if abs(prediction.score - prediction.threshold) < self._settings.near_threshold:
            return NEAR_THRESHOLD
        return SAMPLE if self._random.random() < self._settings.sample else ""

    def _admits(self, model: str, reason: str) -> bool:
        now, limit = self._clock(), self._settings.per_minute
        with self._lock:
            kept = self._last_minute.setdefault(model, deque())
            while kept and kept[0] <= now - MINUTE_S:
                kept.popleft()
            if len(kept) >= limit - int(limit * LEFT_FREE[reason]):
                return False
            if reason == CAMERA_PROBLEM:
                last = self._last_problem.get(model)
                if last is not None and now < last + CAMERA_PROBLEM_EVERY_S:
                    return False
                self._last_problem[model] = now
            kept.append(now)
            return True
