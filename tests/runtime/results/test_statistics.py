"""Alarms: from the scores and verdicts of the last frames."""

from __future__ import annotations

import json
import sys
import threading
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any, Dict, Iterable, List, Tuple

import numpy as np
import pytest

from edge_agent.config import ResultsSettings
from edge_agent.manifest import Histogram
from edge_agent.manifest import Statistics as Trained
from edge_agent.runtime.results.alarms import compare
from edge_agent.runtime.results.statistics import ResultStatistics
from edge_agent.types import CameraProblem, Prediction

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Scores = NDArray[np.float64]

NOW = datetime(2026, 7, 1, 8, 0, 1, tzinfo=timezone.utc)
EDGES = np.linspace(0.0, 1.0, 21)
RANDOM = 20260701


def good(random: np.random.Generator, count: int) -> Scores:
    """Scores of good parts: most about 0.1, some near the threshold, as a trained model's."""
    return np.clip(random.lognormal(-2.0, 0.6, count), 0.0, 1.0)


def shifted(scores: Scores) -> Scores:
    """What a weaker lamp makes of them; all still good."""
    return np.minimum(scores + 0.15, 0.49)


def histogram(scores: Scores) -> Histogram:
    counts = np.histogram(scores, EDGES)[0]
    return Histogram(edges=tuple(EDGES.tolist()), counts=tuple(counts.tolist()))


def trained(count: int = 100) -> Trained:
    return Trained(normal_scores=histogram(good(np.random.default_rng(RANDOM), count)))


TRAINED = trained()


def verdict(score: float, threshold: float = 0.5, version: str = "1") -> Prediction:
    return Prediction(
        score >= threshold, 0.9, float(score), threshold, model_version=version
    )  # fmt: skip


class Line:
    """A model that judges frames; `look` returns (alarm, state) of what turned."""

    def __init__(self, rate_limit: float = 0.5, seed: int = 1) -> None:
        self.distances: List[float] = []
        self.statistics = ResultStatistics(
            ResultsSettings(anomaly_rate_alarm=rate_limit),
            lambda _model, distance: self.distances.append(distance),
            NOW,
        )
        self.random = np.random.default_rng(seed)
        self.bodies: List[Dict[str, Any]] = []

    def judge(self, scores: Iterable[float], trained: Trained = TRAINED, **how: Any) -> None:
        for score in scores:
            self.statistics.add("plates", trained, verdict(score, **how))

    def look(self) -> List[Tuple[str, str]]:
        found = self.statistics.due(NOW)
        assert all((each.kind, each.model) == ("alarm", "plates") for each in found)
        self.bodies = [each.body for each in found]
        return [(body["alarm"], body["state"]) for body in self.bodies]

    def good(self, count: int) -> Scores:
        return good(self.random, count)

    def mixed(self, good: int, bad: int) -> Scores:
        return np.asarray(self.random.permutation(np.append(self.good(good) % 0.5, [0.9] * bad)))


RAISED, ENDED = ("score-drift", "raised"), ("score-drift", "ended")
RATE_RAISED, RATE_ENDED = ("anomaly-rate", "raised"), ("anomaly-rate", "ended")


def test_scores_that_shift_raise_the_alarm_once_and_end_it_once() -> None:
    line = Line()
    line.judge(line.good(500))
    assert line.look() == []
    line.judge(shifted(line.good(500)))
    assert line.look() == [RAISED]
    (body,) = line.bodies
    assert body["distance"] >= body["critical"] == 0.4
    assert (body["higher"], body["scores"], body["trained"]) == (True, 500, 98)
    assert "higher than in training" in body["message"]
    json.dumps(body)
    line.judge(shifted(line.good(100)))
    assert line.look() == []
    line.judge(line.good(500))
    assert line.look() == [ENDED]
    line.judge(line.good(500))
    assert line.look() == []


def test_scores_that_fall_raise_the_alarm_as_well() -> None:
    line = Line()
    line.judge(0.3 * line.good(500))
    assert line.look() == [RAISED]
    assert line.bodies[0]["higher"] is False
    assert "lower than in training" in line.bodies[0]["message"]


def test_no_alarm_without_drift_in_2000_windows() -> None:
    random = np.random.default_rng(3)
    for size in (20, 50, 100, 400):
        manifest = histogram(good(np.random.default_rng(size), size))
        for _ in range(500):
            scores = good(random, 500)
            found = compare(manifest, scores[scores < 0.5].tolist(), 0.5)
            assert found is not None
            assert found.distance < found.critical


def test_fewer_images_make_the_alarm_more_careful() -> None:
    scores = good(np.random.default_rng(3), 500).tolist()
    limits = []
    for size in (5, 20, 50, 100, 1000):
        found = compare(histogram(good(np.random.default_rng(size), size) % 0.5), scores, 0.5)
        assert found is not None
        limits.append(round(found.critical, 2))
    # 2.225 * sqrt((n + m) / (n * m)), Smirnov's value for 1e-4, with n of 490 below the threshold
    assert limits == [1.0, 0.51, 0.4, 0.4, 0.4]


@pytest.mark.parametrize("bad", [50, 250, 400])
def test_many_bad_parts_are_no_drift(bad: int) -> None:
    line = Line(rate_limit=1.0)
    for _ in range(3):
        line.judge(line.mixed(500 - bad, bad))
    assert line.look() == []
    assert line.distances[0] < 0.3


@pytest.mark.parametrize("threshold", [0.2, 0.35, 0.7, 1.0])
def test_another_threshold_is_no_drift(threshold: float) -> None:
    line = Line(rate_limit=1.0)
    line.judge(line.good(500), threshold=0.5)
    line.look()
    line.judge(line.good(500), threshold=threshold)
    assert line.look() == []
    assert len(line.distances) == 2
    assert line.distances[1] < 0.3


def test_frames_judged_by_another_threshold_or_version_are_forgotten() -> None:
    for how in ({"threshold": 0.6}, {"version": "2"}, {"trained": trained(80)}):
        line = Line()
        line.judge([0.45] * 249)
        line.judge([0.45] * 249, **how)
        assert line.look() == []
        line.judge([0.45], **how)
        assert line.look() == [RAISED]
        line.judge([0.9] * 99)
        assert line.look() == []
        line.judge([0.9])
        assert line.look() == [RATE_RAISED]


def test_frames_with_a_camera_problem_are_neither_good_nor_bad() -> None:
    line = Line()
    for problem in CameraProblem:
        for score in [0.9, 0.45] * 50:
            dark = Prediction(score > 0.5, 0.9, score, 0.5, camera_problems=(problem,))
            line.statistics.add("plates", TRAINED, dark)
    assert line.look() == []
    assert line.distances == []


def test_training_without_scores_has_no_drift() -> None:
    line = Line()
    line.judge([0.45] * 500, Trained())
    assert line.look() == []
    assert line.distances == []


WEIRD = [
    Histogram(edges=(0.5,), counts=()),
    Histogram(edges=(0.0, 1.0), counts=(0,)),
    Histogram(edges=(0.0, 1.0), counts=(100,)),
    Histogram(edges=(0.9, 1.0), counts=(100,)),
    Histogram(edges=(1.0, 0.5, 0.0), counts=(50, 50)),
    Histogram(edges=(0.0, 0.0, 0.0), counts=(50, 50)),
    Histogram(edges=(0.0, 0.2, 0.4), counts=(-50, 50)),
    Histogram(edges=(0.0, float("nan"), 1.0), counts=(50, 50)),
    Histogram(edges=(-50.0, 0.0, 50.0), counts=(50, 50)),
]


@pytest.mark.parametrize("histogram", WEIRD)
def test_a_strange_histogram_does_no_harm(histogram: Histogram) -> None:
    line = Line()
    for threshold in (0.0, 0.3, 1.0):
        line.judge(line.good(200), Trained(normal_scores=histogram), threshold=threshold)
        line.look()


def test_many_anomalous_frames_raise_the_alarm_once_and_end_it_below_half_the_limit() -> None:
    line = Line(rate_limit=0.4)
    line.judge(line.mixed(301, 199))
    assert line.look() == []
    line.judge([0.9] * 300)
    assert line.look() == [RATE_RAISED]
    (body,) = line.bodies
    assert body["rate"] >= body["limit"] == 0.4
    assert body["frames"] == 500
    assert "the alarm's limit is 40%" in body["message"]
    line.judge(line.mixed(350, 150))  # 30 % now
    assert line.look() == []
    line.judge(line.mixed(420, 80))
    assert line.look() == [RATE_ENDED]


def test_a_few_frames_are_no_reason_for_an_alarm() -> None:
    line = Line()
    line.judge([0.9] * 99)
    assert line.look() == []
    line.judge([0.9])
    assert line.look() == [RATE_RAISED]


def test_what_was_raised_survives_a_restart_and_is_not_raised_again() -> None:
    line = Line()
    line.judge([0.9] * 500)
    assert line.look() == [RATE_RAISED]
    later = Line()
    later.statistics.restore(line.statistics.snapshot())
    later.judge([0.9] * 500)
    assert later.look() == []
    later.judge(later.good(500) % 0.5)
    assert later.look() == [RATE_ENDED]


def test_a_model_that_was_removed_leaves_its_alarms_behind() -> None:
    line = Line()
    line.judge([0.9] * 500)
    assert line.look() == [RATE_RAISED]
    line.statistics.forget("plates")
    line.statistics.forget("nuts")
    line.judge([0.9] * 100)
    assert line.look() == [RATE_RAISED]


def test_a_model_unused_for_a_period_is_forgotten_unless_it_has_an_alarm() -> None:
    line = Line()
    line.judge([0.9] * 500)
    line.statistics.add("bolts", TRAINED, verdict(0.1))
    for hour in (1, 2):
        line.statistics.due(NOW + timedelta(hours=hour))
    kept = json.loads(line.statistics.snapshot())["models"]
    assert [(each["model"], each["raised"]) for each in kept] == [("plates", ["anomaly-rate"])]


def test_every_frame_of_every_thread_counts_once() -> None:
    line = Line()
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    done = threading.Event()
    told: List[int] = []

    def look() -> None:
        hour = 0
        while not done.is_set():
            hour += 1
            found = line.statistics.due(NOW + timedelta(hours=hour))
            told.extend(each.body["frames"] for each in found if each.kind == "summary")
            json.loads(line.statistics.snapshot())

    scores = line.good(2000)
    threads = [threading.Thread(target=line.judge, args=(scores,)) for _ in range(4)]
    looking = threading.Thread(target=look)
    looking.start()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    done.set()
    looking.join()
    sys.setswitchinterval(interval)
    rest = line.statistics.due(NOW + timedelta(days=5000))
    assert sum(told) + sum(e.body["frames"] for e in rest if e.kind == "summary") == 8000
