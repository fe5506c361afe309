"""Frames to keep, and an agent's capture that is closed in the end."""

from __future__ import annotations

import random
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable, Iterator, Optional

import numpy as np

from edge_agent.config import CaptureSettings
from edge_agent.runtime.results.captures.capture import Capture
from edge_agent.runtime.results.captures.captured_frame import ANOMALY, CapturedFrame
from edge_agent.types import Anomaly, CameraProblem, Prediction, Region

NOON = 1795262400.0  # 2026-11-21 12:00:00 UTC
GREEN = (35, 164, 54)
WITHIN_S = 60.0

NORMAL = Prediction(False, confidence=0.9, score=0.1, threshold=0.5, model_version="3")
ANOMALOUS = Prediction(
    True,
    confidence=0.8,
    score=0.8,
    threshold=0.5,
    anomalies=(Anomaly("background", 0.97, "#FFFFFF"), Anomaly("scratch", 0.03, "#23A436")),
    regions=(Region("scratch", 20, 30, 30, 10, 0.03, 0.9),),
    mask_size=(128, 96),
    model_version="3",
)


def with_problem(*problems: CameraProblem) -> Prediction:
    return Prediction(True, 0.9, 0.9, 0.5, camera_problems=problems, model_version="3")


def picture(seed: int = 0, height: int = 96, width: int = 128) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def mask() -> np.ndarray:
    painted = np.full((96, 128, 3), 255, np.uint8)
    painted[30:40, 20:50] = GREEN
    return painted


def shot(number: int = 1, reason: str = ANOMALY, **changes: Any) -> CapturedFrame:
    facts = {
        "id": f"{number:04}",
        "model": "bolts",
        "model_version": "3",
        "time": NOON + number,
        "reason": reason,
        "pixels": picture(number),
        "shared": False,
        "prediction": ANOMALOUS if reason == ANOMALY else NORMAL,
        "camera_id": "left",
    }
    return CapturedFrame(**{**facts, **changes})


@contextmanager
def capturing(
    folder: Path, clock: Callable[[], float] = time.monotonic, **settings: Any
) -> Iterator[Capture]:
    """An open capture; what it was given is written when the block ends."""
    values = CaptureSettings(folder=folder, **settings)
    capture = Capture(values, random.Random(1), clock)
    try:
        yield capture
    finally:
        capture.close(WITHIN_S)


def until(holds: Callable[[], object], what: Optional[str] = None) -> None:
    end = time.monotonic() + WITHIN_S
    while not holds():
        assert time.monotonic() < end, what or "it didn't happen in time"
        time.sleep(0.002)
