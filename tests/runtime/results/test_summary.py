"""Periods and what is told of them. Clocks and time zones are set, never waited for."""

from __future__ import annotations

import json
import time
from datetime import datetime, timedelta, timezone
from typing import Any, Dict, Iterator, List, Tuple

import pytest

from edge_agent.config import ResultsSettings
from edge_agent.manifest import Statistics as Trained
from edge_agent.runtime.results.statistics import ResultStatistics
from edge_agent.types import Anomaly, CameraProblem, Prediction

SECOND, HOUR, DAY = timedelta(seconds=1), timedelta(hours=1), timedelta(days=1)
BERLIN = "CET-1CEST,M3.5.0,M10.5.0/3"
SHIFTS = "06:00,14:00,22:00"


@pytest.fixture(autouse=True)
def _zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", BERLIN)
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=timezone.utc)


def verdict(
    score: float = 0.1, *types: str, problems: Tuple[CameraProblem, ...] = ()
) -> Prediction:
    found = [
        Anomaly("background", 0.9, "#FFFFFF"),
        *(Anomaly(name, 0.1, "#000000") for name in types),
    ]
    return Prediction(score >= 0.5, 0.9, score, 0.5, tuple(found), camera_problems=problems)


def statistics(began: datetime, summary: str = "hour") -> ResultStatistics:
    return ResultStatistics(ResultsSettings(summary=summary), began=began)


def frames(statistics: ResultStatistics, count: int = 1, model: str = "plates") -> None:
    for _ in range(count):
        statistics.add(model, Trained(), verdict())


def summaries(statistics: ResultStatistics, now: datetime) -> List[Dict[str, Any]]:
    return [found.body for found in statistics.due(now) if found.kind == "summary"]


def span(body: Dict[str, Any]) -> Tuple[str, str, int]:
    return body["from"], body["to"], body["frames"]


def run(
    statistics: ResultStatistics, began: datetime, ended: datetime
) -> List[Tuple[str, str, int]]:
    """One frame and one look a minute."""
    spans, now = [], began
    while now < ended:
        frames(statistics)
        now += timedelta(minutes=1)
        spans += [span(body) for body in summaries(statistics, now)]
    return spans


def test_a_summary_counts_what_was_seen() -> None:
    began = utc("2026-07-01T08:10:00")
    counting = statistics(began)
    for prediction in (
        verdict(0.02),
        verdict(0.31),
        verdict(0.31),
        verdict(0.7, "scratch"),
        verdict(1.0, "scratch", "dent"),
        verdict(0.9, problems=(CameraProblem.DARK, CameraProblem.FROZEN)),
        verdict(0.0, problems=(CameraProblem.BLACK,)),
    ):
        counting.add("plates", Trained(), prediction)
    (found,) = counting.due(began + HOUR)
    assert (found.kind, found.model) == ("summary", "plates")
    counts = [0] * 20
    counts[0], counts[6], counts[14], counts[19] = 1, 2, 1, 1
    assert found.body == {
        "from": "2026-07-01T10:10:00+02:00",
        "to": "2026-07-01T11:00:00+02:00",
        "frames": 7,
        "normal": 3,
        "anomalous": 2,
        "anomalies": {"scratch": 2, "dent": 1},
        "camera_problems": {"dark": 1, "frozen": 1, "black": 1},
        "scores": {"edges": [edge / 20 for edge in range(21)], "counts": counts},
    }
    json.dumps(found.body)


def test_types_found_in_a_good_frame_are_no_anomalies() -> None:
    began = utc("2026-07-01T08:10:00")
    counting = statistics(began)
    counting.add("plates", Trained(), verdict(0.1, "scratch"))
    assert summaries(counting, began + HOUR)[0]["anomalies"] == {}


def test_a_summary_fits_however_many_anomaly_types_there_are() -> None:
    began = utc("2026-07-01T08:10:00")
    counting = statistics(began)
    for number in range(300):
        counting.add("plates", Trained(), verdict(0.9, f"{number:03}" + "é" * 253))
    counting.add("plates", Trained(), verdict(0.9, "007" + "é" * 253))
    (body,) = summaries(counting, began + HOUR)
    assert len(json.dumps(body)) < 6000
    kept = len(body["anomalies"])
    assert kept > 1
    assert max(body["anomalies"], key=body["anomalies"].get).startswith("007")
    assert body["cut"] == {"anomalies": 300 - kept}


def test_each_model_has_its_own_and_one_without_frames_none() -> None:
    began = utc("2026-07-01T08:10:00")
    counting = statistics(began)
    frames(counting, 2, "plates")
    frames(counting, 3, "bolts")
    found = [(each.model, each.body["frames"]) for each in counting.due(began + HOUR)]
    assert found == [("bolts", 3), ("plates", 2)]
    frames(counting, 1, "bolts")
    found = [(each.model, each.body["frames"]) for each in counting.due(began + 2 * HOUR)]
    assert found == [("bolts", 1)]


def test_hours_end_on_the_hour() -> None:
    began = utc("2026-07-01T08:10:00")
    assert run(statistics(began), began, began + 2 * HOUR + timedelta(minutes=50)) == [
        ("2026-07-01T10:10:00+02:00", "2026-07-01T11:00:00+02:00", 50),
        ("2026-07-01T11:00:00+02:00", "2026-07-01T12:00:00+02:00", 60),
        ("2026-07-01T12:00:00+02:00", "2026-07-01T13:00:00+02:00", 60),
    ]


def test_hours_are_those_of_the_clock_on_the_wall(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "IST-5:30")
    time.tzset()
    began = utc("2026-07-01T08:10:00")
    assert run(statistics(began), began, began + HOUR) == [
        ("2026-07-01T13:40:00+05:30", "2026-07-01T14:00:00+05:30", 20)
    ]


def test_a_look_that_comes_late_moves_no_period() -> None:
    began = utc("2026-07-01T08:10:00")
    counting = statistics(began)
    frames(counting)
    late = utc("2026-07-01T09:00:09")
    assert len(summaries(counting, late)) == 1
    frames(counting, 2)
    (body,) = summaries(counting, late + HOUR)
    assert span(body) == ("2026-07-01T11:00:00+02:00", "2026-07-01T12:00:00+02:00", 2)


def test_shifts_end_at_their_times() -> None:
    began = utc("2026-07-01T08:00:00")
    assert run(statistics(began, SHIFTS), began, began + DAY) == [
        ("2026-07-01T10:00:00+02:00", "2026-07-01T14:00:00+02:00", 240),
        ("2026-07-01T14:00:00+02:00", "2026-07-01T22:00:00+02:00", 480),
        ("2026-07-01T22:00:00+02:00", "2026-07-02T06:00:00+02:00", 480),
    ]


def test_without_summaries_no_period_ends() -> None:
    began = utc("2026-07-01T08:00:00")
    assert run(statistics(began, "none"), began, began + DAY) == []


def test_hours_go_on_when_clocks_change() -> None:
    began = utc("2026-10-25T00:00:00")
    assert run(statistics(began), began, began + 3 * HOUR) == [
        ("2026-10-25T02:00:00+02:00", "2026-10-25T02:00:00+01:00", 60),
        ("2026-10-25T02:00:00+01:00", "2026-10-25T03:00:00+01:00", 60),
        ("2026-10-25T03:00:00+01:00", "2026-10-25T04:00:00+01:00", 60),
    ]
    began = utc("2026-03-29T00:00:00")
    assert run(statistics(began), began, began + 2 * HOUR) == [
        ("2026-03-29T01:00:00+01:00", "2026-03-29T03:00:00+02:00", 60),
        ("2026-03-29T03:00:00+02:00", "2026-03-29T04:00:00+02:00", 60),
    ]


@pytest.mark.parametrize(
    ("day", "hours", "offsets"),
    [("2026-10-24", 9, ("+02:00", "+01:00")), ("2026-03-28", 7, ("+01:00", "+02:00"))],
)
def test_a_shift_keeps_its_time_of_day_when_clocks_change(
    day: str, hours: int, offsets: Tuple[str, str]
) -> None:
    began = datetime.fromisoformat(f"{day}T22:00:00").astimezone()
    following = (began + DAY).date()
    assert run(statistics(began, SHIFTS), began, began + timedelta(hours=hours)) == [
        (f"{day}T22:00:00{offsets[0]}", f"{following}T06:00:00{offsets[1]}", 60 * hours),
    ]


def test_a_shift_that_begins_in_the_hour_left_out_begins_once() -> None:
    began = utc("2026-03-29T00:00:00")
    spans = run(statistics(began, "02:30"), began, began + 6 * HOUR)
    assert spans == [("2026-03-29T01:00:00+01:00", "2026-03-29T01:30:00+01:00", 30)]


def test_a_shift_that_begins_in_the_hour_repeated_begins_once() -> None:
    began = utc("2026-10-24T23:00:00")
    spans = run(statistics(began, "02:30"), began, began + 6 * HOUR)
    assert spans == [("2026-10-25T01:00:00+02:00", "2026-10-25T02:30:00+02:00", 90)]


@pytest.mark.parametrize("summary", ["hour", SHIFTS, "00:00"])
@pytest.mark.parametrize(
    "jump",
    [-400 * DAY, -DAY, -2 * HOUR, -timedelta(minutes=30), -SECOND, HOUR, DAY, 400 * DAY],
)
@pytest.mark.parametrize("zone", [BERLIN, "UTC", "XXX-13:45", "YYY+11:30"])
def test_no_frame_counts_twice_or_gets_lost_when_the_clock_or_the_zone_is_set(
    summary: str, jump: timedelta, zone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = utc("2026-07-01T11:59:30")
    counting = statistics(now, summary)
    told, seen = 0, 0
    for second in range(90):
        if second == 45:
            now += jump
            monkeypatch.setenv("TZ", zone)
            time.tzset()
        frames(counting)
        seen += 1
        now += SECOND
        for body in summaries(counting, now):
            assert datetime.fromisoformat(body["from"]) <= datetime.fromisoformat(body["to"])
            told += body["frames"]
    rest = [body["frames"] for body in summaries(counting, now + 2 * DAY)]
    assert told + sum(rest) == seen


def test_after_the_clock_was_set_back_a_day_periods_end_as_before() -> None:
    now = utc("2026-07-02T08:30:00")
    counting = statistics(now)
    frames(counting, 5)
    assert summaries(counting, now + SECOND) == []
    back = now - DAY
    (body,) = summaries(counting, back)
    assert span(body) == ("2026-07-02T10:30:00+02:00", "2026-07-02T10:30:01+02:00", 5)
    frames(counting, 2)
    assert summaries(counting, back + SECOND) == []
    (body,) = summaries(counting, back + HOUR)
    assert span(body) == ("2026-07-01T10:30:00+02:00", "2026-07-01T11:00:00+02:00", 2)


def test_a_clock_corrected_by_a_second_ends_no_period() -> None:
    now = utc("2026-07-01T08:59:59")
    counting = statistics(now)
    frames(counting, 5)
    assert len(summaries(counting, now + SECOND)) == 1
    frames(counting, 2)
    assert summaries(counting, now) == []
    assert summaries(counting, now + 2 * SECOND) == []
    (body,) = summaries(counting, now + SECOND + HOUR)
    assert span(body) == ("2026-07-01T11:00:00+02:00", "2026-07-01T12:00:00+02:00", 2)


def restarted(counting: ResultStatistics, now: datetime, summary: str = "hour") -> ResultStatistics:
    later = statistics(now, summary)
    later.restore(counting.snapshot())
    return later


def test_the_counts_survive_a_restart() -> None:
    began = utc("2026-07-01T08:10:00")
    counting = statistics(began)
    frames(counting, 5)
    counting.add("plates", Trained(), verdict(0.9, "scratch"))
    later = restarted(counting, began + timedelta(minutes=20))
    frames(later, 3)
    (body,) = summaries(later, began + HOUR)
    assert span(body) == ("2026-07-01T10:10:00+02:00", "2026-07-01T11:00:00+02:00", 9)
    assert body["anomalies"] == {"scratch": 1}
    assert body["scores"]["counts"][2] == 8


def test_a_period_that_ended_while_the_agent_was_off_is_told_at_the_start() -> None:
    began = utc("2026-07-01T08:10:00")
    counting = statistics(began)
    frames(counting, 5)
    later = restarted(counting, began + 5 * HOUR)
    (body,) = summaries(later, began + 5 * HOUR)
    assert span(body) == ("2026-07-01T10:10:00+02:00", "2026-07-01T11:00:00+02:00", 5)
    frames(later, 2)
    (body,) = summaries(later, began + 6 * HOUR)
    assert span(body) == ("2026-07-01T15:10:00+02:00", "2026-07-01T16:00:00+02:00", 2)


def test_a_device_that_starts_in_1970_tells_its_counts() -> None:
    began = utc("2026-07-01T08:10:00")
    counting = statistics(began)
    frames(counting, 5)
    assert summaries(counting, began + SECOND) == []
    later = restarted(counting, utc("1970-01-01T00:00:10"))
    (body,) = summaries(later, utc("1970-01-01T00:00:11"))
    assert span(body) == ("2026-07-01T10:10:00+02:00", "2026-07-01T10:10:01+02:00", 5)
    frames(later, 2)
    assert [body["frames"] for body in summaries(later, began + HOUR)] == [2]


def test_without_a_snapshot_there_is_nothing_to_complain_about(
    caplog: pytest.LogCaptureFixture,
) -> None:
    statistics(utc("2026-07-01T08:10:00")).restore("")
    assert not caplog.text


DAMAGED = [
    " ",
    "{",
    "[]",
    "null",
    "\x00\ud800",
    "[" * 100000,
    '{"began": "2026-07-01T08:10:00", "seen": "2026-07-01T08:10:00Z", "models": []}',
    '{"began": "2026-07-01T08:10:00Z", "seen": "2026-07-01T08:10:00Z", "models": [], "more": 1}',
    '{"began": "2026-07-01T08:10:00Z", "seen": "2026-07-01T08:10:00Z", "models": [{"colour": 1}]}',
    '{"began": "2026-07-01T08:10:00Z", "seen": "2026-07-01T08:10:00Z", "models": '
    '[{"model": "plates", "counts": {"frames": -1}, "raised": []}]}',
    '{"began": "2026-07-01T08:10:00Z", "seen": "2026-07-01T08:10:00Z", "models": '
    '[{"model": "plates", "counts": {"scores": [1]}, "raised": []}]}',
    '{"began": "2026-07-01T08:10:00Z", "seen": "2026-07-01T08:10:00Z", "models": '
    '[{"model": "plates", "counts": {"colour": 1}, "raised": []}]}',
]


@pytest.mark.parametrize("text", DAMAGED)
def test_a_damaged_snapshot_is_left_out(text: str, caplog: pytest.LogCaptureFixture) -> None:
    began = utc("2026-07-01T08:10:00")
    counting = statistics(began)
    counting.restore(text)
    assert "are damaged and are ignored" in caplog.text
    frames(counting, 2)
    assert [body["frames"] for body in summaries(counting, began + HOUR)] == [2]
