"""Which frames are kept, and how many of them."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any, List

import pytest

from edge_agent.config import CaptureSettings
from edge_agent.runtime.results.captures.capture import CaptureSelector
from edge_agent.types import CameraProblem
from tests.runtime.results.shots import ANOMALOUS, NORMAL, with_problem

NEAR = replace(NORMAL, score=0.47)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(name="clock")
def _clock() -> Clock:
    return Clock()


def choice(clock: Clock, **settings: Any) -> CaptureSelector:
    values = CaptureSettings(folder=Path("/nowhere"), **settings)
    return CaptureSelector(values, random.Random(7), clock)


def test_each_frame_is_kept_for_its_own_reason(clock: Clock) -> None:
    chosen = choice(clock, sample=1.0)
    assert chosen.choose("bolts", ANOMALOUS) == "anomaly"
    assert chosen.choose("bolts", NEAR) == "near-threshold"
    assert chosen.choose("bolts", NORMAL) == "sample"
    assert chosen.choose("bolts", with_problem(CameraProblem.BLURRED)) == "camera-problem"


def test_what_is_switched_off_is_not_kept(clock: Clock) -> None:
    chosen = choice(clock, sample=0.0, near_threshold=0.0, anomalies=False)
    assert {chosen.choose("bolts", frame) for frame in (ANOMALOUS, NEAR, NORMAL)} == {""}


def test_samples_are_the_share_that_is_set(clock: Clock) -> None:
    chosen = choice(clock, sample=0.1, per_minute=100000)
    kept = [chosen.choose("bolts", NORMAL) for _ in range(10000)].count("sample")
    assert 900 < kept < 1100


def test_no_minute_has_more_than_the_limit_and_models_have_their_own(clock: Clock) -> None:
    chosen = choice(clock, per_minute=5)

    def ask(model: str) -> List[str]:
        return [chosen.choose(model, ANOMALOUS) for _ in range(9)]

    assert ask("bolts") == ["anomaly"] * 5 + [""] * 4
    assert ask("nuts") == ["anomaly"] * 5 + [""] * 4
    clock.now += 59.9
    assert set(ask("bolts")) == {""}
    clock.now += 0.2
    assert ask("bolts").count("anomaly") == 5


def test_samples_leave_room_for_anomalies(clock: Clock) -> None:
    chosen = choice(clock, sample=1.0, per_minute=8)
    assert [chosen.choose("bolts", NORMAL) for _ in range(9)].count("sample") == 4
    assert [chosen.choose("bolts", NEAR) for _ in range(9)].count("near-threshold") == 2
    assert [chosen.choose("bolts", ANOMALOUS) for _ in range(9)].count("anomaly") == 2


def test_one_a_minute_still_lets_a_sample_through(clock: Clock) -> None:
    assert choice(clock, sample=1.0, per_minute=1).choose("bolts", NORMAL) == "sample"


def test_frames_of_a_faulty_camera_are_kept_once_a_minute_and_black_ones_never(
    clock: Clock,
) -> None:
    chosen = choice(clock, sample=1.0)
    dark = with_problem(CameraProblem.DARK, CameraProblem.BLANK)
    assert chosen.choose("bolts", with_problem(CameraProblem.BLACK)) == ""
    assert [chosen.choose("bolts", dark) for _ in range(3)] == ["camera-problem", "", ""]
    clock.now += 61
    assert chosen.choose("bolts", dark) == "camera-problem"
