"""How checks end, and what is reported of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import List

import pytest

from edge_agent.errors import BackendUnavailable
from edge_agent.gpu_check.report import AcceptanceReport, CheckEnded, Failed, Skipped


def test_a_check_that_breaks_fails_and_the_next_one_is_made() -> None:
    lines: List[str] = []
    report = AcceptanceReport({}, lines.append)

    def broken() -> str:
        raise ZeroDivisionError("by hand")

    assert not report.check("broken", broken)
    assert report.check("good", lambda: "fine")
    assert report.has_failed
    assert "FAILED   broken" in lines[0]
    assert "ZeroDivisionError: by hand" in lines[0]


def test_a_skipped_check_says_why_and_fails_nothing() -> None:
    report = AcceptanceReport({}, lambda _: None)

    def skipped() -> str:
        raise Skipped("there is nothing to check")

    assert not report.check("skipped", skipped)
    assert not report.has_failed
    assert report.summary().endswith(
        "there is nothing to check\n\n0 ok, 0 FAILED, 1 skipped\nnot measured: nothing"
    )


def test_sentences_of_ours_are_reported_as_they_are() -> None:
    report = AcceptanceReport({}, lambda _: None)
    for error in (Failed("too slow"), BackendUnavailable("no TensorRT")):

        def fails(error: Exception = error) -> str:
            raise error

        report.check("fails", fails)
    found = json.loads(report.to_json())["checks"]
    assert [check["detail"] for check in found] == ["too slow", "no TensorRT"]


def test_the_json_is_whole_after_every_check(tmp_path: Path) -> None:
    out = tmp_path / "gpu_check.json"
    report = AcceptanceReport({}, lambda _: None, out)
    for count in (1, 2):
        report.check(str(count), lambda: "fine")
        assert len(json.loads(out.read_bytes())["checks"]) == count
    assert [path.name for path in tmp_path.iterdir()] == ["gpu_check.json"]


def test_a_run_that_is_to_end_skips_the_rest_and_says_why() -> None:
    report = AcceptanceReport({}, lambda _: None)

    def ended() -> str:
        report.end("ended by SIGTERM")
        return "never returned"

    assert not report.check("one", ended)
    assert not report.check("another", lambda: "never made")
    assert not report.has_failed
    found = json.loads(report.to_json())["checks"]
    assert [check["detail"] for check in found] == ["ended by SIGTERM"] * 2


def test_an_end_is_raised_before_the_first_check_and_not_between_two() -> None:
    report = AcceptanceReport({}, lambda _: None)
    with pytest.raises(CheckEnded, match="by hand"):
        report.end("by hand")
    report.check("one", lambda: "never made")
    report.end("by hand")
    assert not report.check("two", lambda: "never made")


def test_what_isnt_begun_in_time_is_skipped() -> None:
    report = AcceptanceReport({}, lambda _: None, within_s=0)
    assert not report.check("late", lambda: "never made")
    assert not report.has_failed
    assert "the 0 s of --within were over" in report.summary()


def test_a_goal_counts_as_measured_when_none_of_its_checks_was_skipped() -> None:
    report = AcceptanceReport({}, lambda _: None, goals=["made", "missed", "half", "never"])

    def skipped() -> str:
        raise Skipped("no sqlite3")

    def slow() -> str:
        raise Failed("too slow")

    report.check("one", slow, "made")
    report.check("two", skipped, "missed")
    report.check("three", lambda: "fine", "half")
    report.check("four", skipped, "half")
    last = report.summary().splitlines()[-1]
    wanted = "missed (no sqlite3); half (no sqlite3); never (a check before it failed)"
    assert last == f"not measured: {wanted}"
    assert set(json.loads(report.to_json())["not_measured"]) == {"missed", "half", "never"}


def test_tables_come_before_the_checks_and_as_numbers_in_json() -> None:
    report = AcceptanceReport({"gpu": "none"}, lambda _: None)
    report.table("Speed", "batch", "engine").append(("4", "loop"))
    report.table("Empty", "batch")
    report.check("good", lambda: "fine")
    summary = report.summary()
    assert summary.startswith("Speed\nbatch  engine\n4      loop\n\nChecks\n")
    assert "Empty" not in summary
    found = json.loads(report.to_json())
    assert found["tables"]["Speed"] == [{"batch": 4.0, "engine": "loop"}]
    assert found["machine"] == {"gpu": "none"}
