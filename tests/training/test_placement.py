from __future__ import annotations

import math
from typing import List, Optional

import numpy as np
import pytest

from edge_agent.errors import InvalidConfiguration
from edge_agent.training.placement import Scores, Wanted, fit, overkill, place, threshold_of
from edge_agent.training.sample import Sample

NONE = Sample.of(np.empty(0))


def share_above(value: float) -> float:
    """Return that of a bell curve of deviation 1 around 0."""
    return 0.5 * math.erfc(value / math.sqrt(2.0))


def scores(seed: int, good: int, bad: int = 0, apart: float = 3.0) -> Scores:
    """Draw bell curves of deviation 1, `apart` from each other."""
    random = np.random.default_rng(seed)
    return Scores(
        Sample.of(random.normal(0.0, 1.0, good)),
        Sample.of(random.normal(apart, 1.0, bad)) if bad else NONE,
        Sample.of(random.normal(apart, 1.0, good)),
    )


@pytest.mark.parametrize("asked", [None, 0.02, 0.1])
def test_the_stated_interval_of_false_alarms_holds(asked: Optional[float]) -> None:
    held: List[bool] = []
    rates: List[float] = []
    for seed in range(400):
        given = scores(seed, 60)
        threshold = threshold_of(fit(given, Wanted(max_overkill=asked)))
        truth = share_above(threshold)
        low, high = overkill(given.normal.as_taken, threshold).interval
        held.append(low <= truth <= high)
        rates.append(truth)
    assert np.mean(held) >= 0.93
    if asked is not None:
        assert np.mean(rates) <= asked * 1.1


def test_the_escape_asked_for_is_kept_on_new_images() -> None:
    escapes = []
    for seed in range(60):
        fitted = fit(scores(seed, 100, bad=60), Wanted(max_escape=0.05))
        escapes.append(share_above(3.0 - threshold_of(fitted)))
    assert np.mean(escapes) <= 0.055


def test_a_limit_that_helps_nothing_else_leaves_the_threshold_in_the_middle() -> None:
    apart = scores(1, 100, bad=100, apart=20.0)
    asked = place(apart, Wanted(max_overkill=0.02), 0)
    assert asked.calibration == place(apart, Wanted(), 0).calibration


def test_both_limits_where_both_can_be_reached() -> None:
    both = place(scores(2, 200, bad=200, apart=6.0), Wanted(0.02, 0.02), 0)
    assert both.overkill.wrong <= 3
    assert both.escape is not None
    assert both.escape.wrong <= 3
    assert not any("Not both" in remark for remark in both.remarks())


def test_where_not_both_can_be_reached_a_sentence_names_the_price_of_each() -> None:
    given = scores(3, 300, bad=300, apart=2.0)
    placed = place(given, Wanted(0.02, 0.01), 0)
    sentence = next(placed.remarks())
    lost, alarms = placed.reachable.max_escape, placed.reachable.max_overkill
    assert lost is not None
    assert alarms is not None
    assert lost > 0.3
    assert alarms > 0.3
    assert sentence.startswith("Not both can be reached on these images: at most 2 % overkill lets")
    assert sentence.endswith("The threshold keeps --max-escape.")
    assert placed.escape is not None
    assert placed.escape.wrong <= 2


def test_few_images_cannot_show_a_small_share_and_it_is_said() -> None:
    remarks = list(place(scores(4, 30), Wanted(max_overkill=0.02), 0).remarks())
    assert remarks[0].startswith("Expected overkill (good parts called anomalous): ")
    assert "more good images would halve that interval." in remarks[0]
    assert remarks[1] == (
        "30 good images can't show that at most 2 % are wrong: that needs 149 of which none is. "
        "They show at most 14.9 %."
    )


def test_an_escape_needs_bad_images() -> None:
    with pytest.raises(InvalidConfiguration, match="--max-escape needs bad images"):
        Wanted(max_escape=0.01).check(bad=0)
    Wanted(max_escape=0.01).check(bad=1)


def test_equal_scores_are_not_split() -> None:
    good = Sample.of(np.repeat([0.0, 1.0, 2.0], [90, 8, 2]))
    rounded = Scores(good, NONE, Sample.of(np.full(100, 9.0)))
    placed = place(rounded, Wanted(max_overkill=0.05), 0)
    assert 1.0 < threshold_of(placed.calibration) < 2.0
    assert placed.overkill.wrong == 2


def test_the_grey_band_narrows_with_more_images() -> None:
    few, many = (place(scores(5, count, count), Wanted(), 0).band for count in (20, 500))
    assert 0.05 <= few.low < many.low < 0.5 < many.high < few.high <= 0.95


def test_the_same_scores_give_the_same_band() -> None:
    given = scores(6, 40, 20)
    assert place(given, Wanted(), 7) == place(given, Wanted(), 7)


def test_changed_copies_move_the_threshold_and_are_told_apart_from_pictures() -> None:
    given = scores(7, 50)
    still = place(given, Wanted(), 0)
    pictures = given.normal
    both = Sample(
        np.concatenate((pictures.scores, pictures.scores + 2.0)),
        np.repeat([0, 1], 50),
        np.tile(pictures.parts, 2),
    )
    placed = place(Scores(both, NONE, given.synthetic), Wanted(), 0)
    assert threshold_of(placed.calibration) > threshold_of(still.calibration) + 0.5
    assert placed.overkill.count == 50
    assert placed.of_copies[1] == 50
    assert f"{placed.of_copies[0]} of 50 changed copies" in " ".join(placed.remarks())


def test_pictures_of_one_part_are_drawn_together() -> None:
    parts = np.array([0, 1, 2, 0, 1, 2])
    drawn = Sample(parts * 1.0, np.zeros(6, int), parts).drawn(np.random.default_rng(1))
    assert len(set(drawn.parts.tolist())) < 3
    assert len(drawn.scores) == 6
    for part in set(drawn.parts.tolist()):
        assert (drawn.parts == part).sum() % 2 == 0
    np.testing.assert_array_equal(drawn.scores, drawn.parts)
