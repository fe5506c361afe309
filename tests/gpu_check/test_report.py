"""How checks end, and what is told of them."""

from __future__ import annotations

import json
from typing import List

from edge_agent.errors import BackendUnavailable
from edge_agent.gpu_check.report import Failed, Report, Skipped


def test_a_check_that_breaks_fails_and_the_next_one_is_made() -> None:
    told: List[str] = []
    report = Report({}, told.append)

    def broken() -> str:
        raise ZeroDivisionError("by hand")

    assert not report.check("broken", broken)
    assert report.check("good", lambda: "fine")
    assert report.has_failed
    assert "FAILED   broken" in told[0]
    assert "ZeroDivisionError: by hand" in told[0]


def test_a_skipped_check_says_why_and_fails_nothing() -> None:
    report = Report({}, lambda _: None)

    def skipped() -> str:
        raise Skipped("there is nothing to check")

    assert not report.check("skipped", skipped)
    assert not report.has_failed
    assert report.summary().endswith("there is nothing to check\n\n0 ok, 0 FAILED, 1 skipped")


def test_sentences_of_ours_are_told_as_they_are() -> None:
    report = Report({}, lambda _: None)
    for error in (Failed("too slow"), BackendUnavailable("no TensorRT")):

        def fails(error: Exception = error) -> str:
            raise error

        report.check("fails", fails)
    told = json.loads(report.to_json())["checks"]
    assert [check["detail"] for check in told] == ["too slow", "no TensorRT"]


def test_tables_come_before_the_checks_and_as_numbers_in_json() -> None:
    report = Report({"gpu": "none"}, lambda _: None)
    report.table("Speed", "batch", "engine").append(("4", "loop"))
    report.table("Empty", "batch")
    report.check("good", lambda: "fine")
    summary = report.summary()
    assert summary.startswith("Speed\nbatch  engine\n4      loop\n\nChecks\n")
    assert "Empty" not in summary
    told = json.loads(report.to_json())
    assert told["tables"]["Speed"] == [{"batch": 4.0, "engine": "loop"}]
    assert told["machine"] == {"gpu": "none"}
