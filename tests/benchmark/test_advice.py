from __future__ import annotations

from edge_agent.benchmark.advice import recommend
from edge_agent.benchmark.results import Split
from tests.benchmark.reports import CLOSED, measured, size


def test_the_fastest_transport_and_the_fewest_clients_that_fill_it() -> None:
    advice = recommend(size(*CLOSED), (), 1, 2)
    assert (advice["transport"], advice["clients"]) == ("shared_memory", 2)
    assert (advice["capacity_fps"], advice["steady_fps"]) == (96.0, 76.8)


def test_of_equally_fast_transports_the_one_of_lower_latency() -> None:
    alike = size(measured("shared_memory", 1, 80.0, 11.0), measured("bytes", 1, 82.0, 13.0))
    assert recommend(alike, (), 1, 2)["transport"] == "shared_memory"


def test_the_highest_rate_without_loss_counts_more_than_headroom() -> None:
    kept = measured("shared_memory", 4, 90.0, 12.0, rate_fps=90.0)
    lost = measured("shared_memory", 4, 96.0, 500.0, rate_fps=120.0, not_sent=20)
    assert recommend(size(*CLOSED, kept, lost), (), 1, 2)["steady_fps"] == 90.0


def test_a_rate_that_lost_frames_is_not_planned_with() -> None:
    kept = measured("shared_memory", 4, 30.0, 12.0, rate_fps=30.0)
    lost = measured("shared_memory", 4, 59.0, 12.0, rate_fps=60.0, failures={"INTERNAL": 1})
    assert recommend(size(*CLOSED, kept, lost), (), 1, 2)["steady_fps"] == 30.0


def test_when_no_rate_is_kept_up_with_less_is_planned() -> None:
    lost = measured("shared_memory", 4, 40.0, 12.0, rate_fps=50.0)
    assert recommend(size(*CLOSED, lost), (), 1, 2)["steady_fps"] == 40.0


def test_units_are_added_only_for_more_than_the_margin() -> None:
    assert recommend(size(*CLOSED), (Split(2, 1, 1.04),), 1, 2)["units"] == 1
    better = recommend(size(*CLOSED), (Split(2, 1, 1.2),), 1, 2)
    assert (better["units"], better["threads"]) == (2, 1)
    assert "--units 2 --threads 1" in better["reasons"][-1]


def test_without_a_package_nothing_is_said_of_units() -> None:
    assert "units" not in recommend(size(*CLOSED, raw=None), (), 1, 2)


def test_nothing_is_recommended_when_no_frame_was_answered() -> None:
    nothing = measured("bytes", 1, 0.0, 1.0, failures={"INTERNAL": 5})
    assert list(recommend(size(nothing), (), 1, 2)) == ["reasons"]
