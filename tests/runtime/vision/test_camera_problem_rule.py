"""From a verdict with a camera problem to what the caller is answered."""

from __future__ import annotations

from typing import Any, Dict, Optional

import numpy as np
import pytest

from edge_agent.config import CameraProblemSettings, load
from edge_agent.errors import FaultyPicture, InvalidConfiguration
from edge_agent.runtime.vision.camera_problem_rule import CameraProblemRule
from edge_agent.types import Anomaly, CameraProblem, Prediction, Region

RED = (255, 0, 0)


def rule(**actions: Any) -> CameraProblemRule:
    return CameraProblemRule(CameraProblemSettings.model_validate(actions))


def normal(*problems: CameraProblem, mask: Optional[Any] = None) -> Prediction:
    size = (0, 0) if mask is None else (mask.shape[1], mask.shape[0])
    return Prediction(False, 0.9, 0.1, 0.5, mask=mask, mask_size=size, camera_problems=problems)


@pytest.mark.parametrize("problem", CameraProblem)
def test_by_default_only_pictures_that_show_no_part_are_anomalous(problem: CameraProblem) -> None:
    found = rule().apply(normal(problem), None)
    of_part = problem in (CameraProblem.BLURRED, CameraProblem.FROZEN)
    assert (found.is_anomalous, found.confidence) == ((False, 0.9) if of_part else (True, 1.0))
    assert found.camera_problems == (problem,)
    assert found.anomalies == ()  # of a classification model


@pytest.mark.parametrize("in_segment", [False, True])
def test_the_whole_mask_is_marked_with_the_problem(in_segment: bool) -> None:
    mask = np.full((3, 5, 3), 255, np.uint8)
    target = mask.copy() if in_segment else None
    given = normal(CameraProblem.BRIGHT, CameraProblem.BLANK, mask=mask)
    if in_segment:
        given = Prediction(**{**vars(given), "mask": None})
    found = rule().apply(given, target)
    painted = target if in_segment else found.mask
    assert (np.asarray(painted) == RED).all()
    background, anomaly = found.anomalies
    assert background == Anomaly("background", 0.0, "#FFFFFF")
    assert anomaly == Anomaly("bright", 1.0, "#FF0000")
    assert found.regions == (Region("bright", 0, 0, 5, 3, 1.0, 1.0),)


def test_the_strictest_action_of_several_problems_counts() -> None:
    both = normal(CameraProblem.BRIGHT, CameraProblem.FROZEN)
    assert rule(bright="report").apply(both, None) is both
    assert rule(bright="report", frozen="anomalous").apply(both, None).is_anomalous
    with pytest.raises(FaultyPicture, match=r"picture is bright and frozen: .* Check them"):
        rule(frozen="refuse").apply(both, None)


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        ("camera_problem=report", dict.fromkeys(CameraProblemSettings.model_fields, "report")),
        ("camera_problem.dark=refuse", {"dark": "refuse"}),
        ('camera_problem={"blurred": "anomalous"}', {"blurred": "anomalous"}),
    ],
)
def test_one_word_stands_for_every_kind_and_each_may_have_its_own(
    assignment: str, expected: Dict[str, Any]
) -> None:
    found = load(None, {}, [f"decision.{assignment}"]).decision.camera_problem
    assert found == CameraProblemSettings(**expected)
    assert set(CameraProblemSettings.model_fields) == {each.value for each in CameraProblem}


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        ("camera_problem=ignore", "expected report, anomalous, refuse, or an object with"),
        ("camera_problem.dark=ignore", "camera_problem.dark: input should be 'report'"),
        ("camera_problem.gone=report", "known here: black, blank, blurred, bright, dark, frozen"),
    ],
)
def test_a_wrong_action_or_kind_is_named(assignment: str, words: str) -> None:
    with pytest.raises(InvalidConfiguration, match=words):
        load(None, {}, [f"decision.{assignment}"])
