from __future__ import annotations

from typing import Any, List

from edge_agent.config import ResultsSettings
from edge_agent.runtime.results.filters import MOST_CAMERAS, Filter
from edge_agent.types import CameraProblem, Prediction

BLACK, DARK = (CameraProblem.BLACK,), (CameraProblem.DARK,)


def verdict(anomalous: bool, problems: Any = ()) -> Prediction:
    return Prediction(anomalous, 0.9, 0.9, 0.5, camera_problems=problems)


GOOD, BAD = verdict(False), verdict(True)


def passed(
    filter_: Filter, verdicts: List[Prediction], step_s: float = 1.0, camera: str = "c"
) -> str:
    """Which of the verdicts pass: "+" or "-" each."""
    results = (filter_.passes("m", camera, v, 1000.0 + n * step_s) for n, v in enumerate(verdicts))
    return "".join("-+"[result] for result in results)


def test_all_are_published_by_default() -> None:
    assert passed(Filter(ResultsSettings()), [GOOD, BAD, GOOD, verdict(True, DARK)]) == "++++"


def test_only_anomalies_and_now_and_then_a_normal_result() -> None:
    filter_ = Filter(ResultsSettings(publish="anomalies", heartbeat_s=4.0))

    assert passed(filter_, [GOOD, GOOD, BAD, BAD, GOOD, GOOD, GOOD]) == "+-++" + "+--"


def test_without_heartbeat_no_normal_result_passes() -> None:
    filter_ = Filter(ResultsSettings(publish="anomalies", heartbeat_s=0.0))

    assert passed(filter_, [GOOD, BAD, GOOD], step_s=1000.0) == "-+-"


def test_changes_are_those_of_each_camera() -> None:
    filter_ = Filter(ResultsSettings(publish="changes", heartbeat_s=0.0))

    assert passed(filter_, [GOOD, GOOD, BAD, BAD, GOOD], camera="left") == "+-+-+"
    assert passed(filter_, [GOOD, GOOD], camera="right") == "+-"


def test_a_camera_problem_is_told_when_it_begins_not_as_anomaly_after_anomaly() -> None:
    filter_ = Filter(ResultsSettings(publish="anomalies", heartbeat_s=0.0))
    dark = verdict(True, DARK)

    assert passed(filter_, [GOOD, dark, dark, dark, BAD, dark]) == "-+--++"


def test_black_warm_up_frames_stay_out_and_a_dead_camera_is_told_once() -> None:
    black = verdict(True, BLACK)

    assert passed(Filter(ResultsSettings()), [black] * 5 + [GOOD] + [black] * 14) == (
        "-----" + "+" + "----------+---"
    )


def test_the_rate_of_a_model_is_limited() -> None:
    filter_ = Filter(ResultsSettings(per_minute=60))

    assert passed(filter_, [BAD] * 20, step_s=0.25).count("+") == 5


def test_callers_that_name_themselves_anew_each_time_take_no_memory() -> None:
    filter_ = Filter(ResultsSettings(publish="changes"))

    for n in range(3 * MOST_CAMERAS):
        assert filter_.passes("m", f"camera-{n}", BAD, 0.0)
        filter_.passes("m", f"camera-{n}", verdict(True, BLACK), 0.0)

    assert max(len(filter_._verdicts), len(filter_._black)) <= MOST_CAMERAS
