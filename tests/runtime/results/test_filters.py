from __future__ import annotations

from typing import Any, List

from edge_agent.config import ResultsSettings
from edge_agent.runtime.results.filters import MOST_CAMERAS, Filter, WarmUps
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


def test_black_frames_in_a_row_are_counted_for_each_camera() -> None:
    warm_ups, black = WarmUps(), verdict(True, BLACK)

    assert [warm_ups.black("m", "left", black) for _ in range(3)] == [1, 2, 3]
    assert warm_ups.black("m", "right", black) == 1
    assert warm_ups.black("m", "left", GOOD) == 0
    assert warm_ups.black("m", "left", black) == 1


def test_the_rate_of_a_model_is_limited() -> None:
    filter_ = Filter(ResultsSettings(per_minute=60))

    assert passed(filter_, [BAD] * 400, step_s=0.25).count("+") == 160 - 1


def test_normal_results_leave_room_for_anomalies_in_the_rate() -> None:
    filter_ = Filter(ResultsSettings(per_minute=60))
    frames = ([GOOD] * 99 + [BAD]) * 10

    results = passed(filter_, frames, step_s=0.1)

    assert results[99::100] == "+" * 10
    assert filter_.withheld == results.count("-") > 0


def test_a_change_that_the_rate_withholds_is_told_when_there_is_room() -> None:
    filter_ = Filter(ResultsSettings(publish="changes", heartbeat_s=0, per_minute=1))

    results = passed(filter_, [BAD] + [GOOD] * 100, step_s=1.0)

    assert results[0] == "+"
    assert results[1:].count("+") == 1
    assert results.index("+", 1) > 50


def test_callers_that_name_themselves_anew_each_time_take_no_memory() -> None:
    filter_, warm_ups = Filter(ResultsSettings(publish="changes")), WarmUps()

    for n in range(3 * MOST_CAMERAS):
        assert filter_.passes("m", f"camera-{n}", BAD, 0.0)
        warm_ups.black("m", f"camera-{n}", verdict(True, BLACK))

    assert max(len(filter_._verdicts), len(warm_ups._black)) <= MOST_CAMERAS
