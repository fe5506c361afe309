from __future__ import annotations

import argparse

import numpy as np
import pytest

from edge_agent.training.rates import ErrorRate, images_for, most_wrong, percent
from edge_agent.training.train_command import share


def test_the_interval_is_that_of_clopper_and_pearson() -> None:
    assert ErrorRate(0, 150).interval == pytest.approx((0.0, 1.0 - 0.025 ** (1 / 150)))
    assert ErrorRate(3, 100).interval == pytest.approx((0.0062300, 0.0851760), abs=1e-6)
    assert ErrorRate(100, 100).interval == pytest.approx((0.025 ** (1 / 100), 1.0))


def test_how_many_images_a_share_needs() -> None:
    assert images_for(0.02) == 149  # 0.98 ** 149 is below one in twenty
    assert most_wrong(0.02, 48) is None
    assert most_wrong(0.02, 49) == 0
    assert most_wrong(0.02, 149) == 2


@pytest.mark.parametrize("rate", [ErrorRate(0, 20), ErrorRate(3, 60), ErrorRate(10, 100)])
def test_the_images_that_halve_the_interval_do_so(rate: ErrorRate) -> None:
    more = rate.more_to_halve()
    assert more is not None
    count = rate.count + more
    assert ErrorRate(round(rate.wrong / rate.count * count), count).width <= rate.width / 2.0


@pytest.mark.parametrize("wrong", [0, 2, 8])
def test_the_interval_holds_for_a_threshold_chosen_by_rank_among_the_same_scores(
    wrong: int,
) -> None:
    random = np.random.default_rng(wrong)
    low, high = ErrorRate(wrong, 80).interval
    draws = np.sort(random.random((4000, 80)), axis=1)[:, ::-1]  # a share x is above 1 - x
    next_higher = draws[:, wrong - 1] if wrong else np.ones(len(draws))
    beyond = 1.0 - (draws[:, wrong] + next_higher) / 2.0
    assert ((low <= beyond) & (beyond <= high)).mean() >= 0.93


@pytest.mark.parametrize(
    ("text", "expected"), [("2%", 0.02), ("0.02", 0.02), ("1.5 %", 0.015), (".1", 0.1)]
)
def test_a_share_is_a_percentage_or_a_fraction(text: str, expected: float) -> None:
    assert share(text) == pytest.approx(expected)


@pytest.mark.parametrize("text", ["0", "0%", "100%", "2", "-1%", "two", "1e-2", "nan", "2%%", ""])
def test_what_is_no_share_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=r"such as 2% or 0\.02"):
        share(text)


def test_shares_are_written_for_people() -> None:
    assert [percent(each) for each in (0.025, 0.1, 0.0004, 0.0)] == [
        "2.5 %", "10 %", "0.04 %", "0.00 %",
    ]  # fmt: skip
