from __future__ import annotations

import re
from typing import Optional

import pytest

from edge_agent.demo import page
from edge_agent.demo.line import InspectedPart, summarise
from edge_agent.types import Prediction
from tests.fakes.html_page import check_tags

FACTS = page.Facts(trained_on=60, seed=7, seconds=31.4, threshold=0.5)


def _part(
    number: int, defect: Optional[str], score: float, latency_ms: float = 10.0
) -> InspectedPart:
    prediction = Prediction(score >= 0.5, 0.9, score, 0.5)
    located = None if defect is None else True
    return InspectedPart(number, defect, prediction, latency_ms, located, b"picture %d" % number)


LINE = [
    _part(1, None, 0.1, 8.0),
    _part(2, None, 0.7, 9.0),
    _part(3, "dent", 0.9, 10.0),
    _part(4, "stain", 0.2, 11.0),
    _part(5, "dent", 0.8, 30.0),
]


@pytest.fixture(name="html", scope="module")
def _html() -> str:
    return page.build(LINE, summarise(LINE), FACTS)


def test_the_page_refers_to_nothing_outside_itself(html: str) -> None:
    assert not re.search(
        r"https?:|//|@import|url\(|<script|<link", re.sub(r"base64,[^\"]*", "", html)
    )
    sources = re.findall(r'(?:src|href)="([^"]*)"', html)
    assert len(sources) == len(LINE)
    assert all(source.startswith("data:image/jpeg;base64,") for source in sources)


def test_the_page_shows_every_part_and_marks_the_wrong_ones(html: str) -> None:
    assert [f"#{part.number} · {part.truth}" in html for part in LINE] == [True] * len(LINE)
    assert html.count('<figure class="wrong">') == 2
    assert html.count('<figure class="right">') == 3


def test_the_page_shows_the_sums(html: str) -> None:
    for text in ("3 / 5", "10.0 ms", "trained on 60 drawn pictures", "2 of 2", "0 of 1"):
        assert text in html


def test_the_page_is_well_formed(html: str) -> None:
    check_tags(html)


def test_text_on_the_page_is_escaped() -> None:
    line = [_part(1, '<b>&"dent', 0.9)]
    html = page.build(line, summarise(line), FACTS)
    assert '<b>&"dent' not in html
    assert html.count("&lt;b&gt;&amp;&quot;dent") == 2


def test_the_histogram_has_one_bar_a_filled_bin_and_the_threshold(html: str) -> None:
    drawing = html[html.index("<svg") : html.index("</svg>")]
    bars = [bar for bar in re.findall(r"<rect [^>]*>", drawing) if 'height="11"' not in bar]
    assert len(bars) == 5
    assert "threshold 0.50" in drawing


def test_a_summary_counts_by_truth_and_verdict() -> None:
    summary = summarise(LINE)
    assert summary.table == ((1, 1), (1, 2))
    assert (summary.right, summary.total) == (3, 5)
    assert summary.caught == {"dent": (2, 2), "stain": (0, 1)}
    assert summary.located == (2, 2)
    assert (summary.p50_ms, summary.p90_ms) == pytest.approx((10.0, 22.4))
