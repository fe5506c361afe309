from __future__ import annotations

import re
from io import StringIO
from typing import List

import pytest
from rich.console import Console

from edge_agent.benchmark import charts, page, table
from tests.benchmark.reports import CLOSED, measured, report
from tests.fakes.html_page import check_tags

OPEN = measured("shared_memory", 4, 29.0, 12.0, rate_fps=30.0, not_sent=7, failures={"INTERNAL": 2})
REPORT = report(*CLOSED, OPEN)


@pytest.fixture(name="html", scope="module")
def _html() -> str:
    return page.build(REPORT)


def test_the_page_refers_to_nothing_outside_itself(html: str) -> None:
    assert not re.search(r"https?:|//|@import|url\(|<script|<link|src=|href=", html)


def test_the_page_is_well_formed(html: str) -> None:
    check_tags(html)


def test_the_page_has_the_plots_and_ends_in_a_recommendation(html: str) -> None:
    drawings = re.findall(r'<svg [^>]*aria-label="([^"]+)"', html)
    assert drawings == [
        "Throughput against clients",
        "Latency over shared memory",
        "Latency over bytes",
        "Mean time of a frame over shared memory",
        "Mean time of a frame over bytes",
    ]
    assert html.index("Recommended configuration") > html.rindex("<svg")
    assert "shared memory, 2 clients: capacity 96 frames/s" in html


def test_the_raw_throughput_is_a_dashed_line_over_all_clients(html: str) -> None:
    drawing = html[html.index("Throughput against clients") :]
    assert drawing[: drawing.index("</svg>")].count("stroke-dasharray") == 1


def test_an_open_loop_that_fell_behind_is_not_among_the_stages(html: str) -> None:
    drawing = html[html.index("Mean time of a frame over shared memory") :]
    drawing = drawing[: drawing.index("</svg>")]
    assert ("4 clients" in drawing, "30/s open" in drawing) == (True, False)


def test_what_was_lost_is_shown(html: str) -> None:
    assert "2 INTERNAL, 7 unsent" in html


def test_text_on_the_page_is_escaped() -> None:
    assert "<b>&" not in page.build(report(*CLOSED, model="<b>&"))


def test_a_page_of_a_run_without_any_answer_can_be_made() -> None:
    failed = measured(
        "bytes", 1, 0.0, 1.0, failures={"INTERNAL": 5}, latency_ms=None, stages_ms={}, agent=None
    )
    assert "nothing to recommend" in page.build(report(failed))


def test_the_table_fits_80_columns_and_shows_the_same() -> None:
    console = Console(file=StringIO(), width=80)
    table.show(REPORT, console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "…" not in text
    for words in ("30/s open", "4 clients", "elsewhere", "+1.000 ms", "Recommended: 1 unit of"):
        assert words in text


@pytest.mark.parametrize(
    ("highest", "ticks"),
    [
        (93.0, [0, 25, 50, 75, 100]),
        (4.0, [0, 1, 2, 3, 4]),
        (7.0, [0, 2, 4, 6, 8]),
    ],
)
def test_linear_ticks_are_round_and_reach_the_highest_value(
    highest: float, ticks: List[float]
) -> None:
    assert [value for value, _ in charts.linear_ticks(highest)] == ticks


def test_logarithmic_ticks_enclose_the_values() -> None:
    assert [value for value, _ in charts.logarithmic_ticks(3.0, 120.0)] == pytest.approx(
        [2, 5, 10, 20, 50, 100, 200]
    )
