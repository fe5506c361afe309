from __future__ import annotations

import numpy as np
import pytest

from edge_agent.demo import parts
from edge_agent.demo.defects import DEFECTS


def test_a_seed_draws_the_same_part_every_time() -> None:
    first, second = parts.draw(3, "dent"), parts.draw(3, "dent")
    assert np.array_equal(first.image, second.image)
    assert np.array_equal(first.mask, second.mask)


def test_another_seed_draws_another_part() -> None:
    assert not np.array_equal(parts.draw(3).image, parts.draw(4).image)


def test_a_good_part_is_a_colour_picture_with_an_empty_mask() -> None:
    part = parts.draw(5)
    assert part.image.dtype == np.uint8
    assert part.image.shape == (720, 960, 3)
    assert part.defect is None
    assert not part.mask.any()


@pytest.mark.parametrize("defect", sorted(DEFECTS))
def test_the_mask_covers_what_the_defect_changed(defect: str) -> None:
    good, bad = parts.draw(9), parts.draw(9, defect)
    difference = np.abs(good.image.astype(int) - bad.image.astype(int)).max(axis=2)
    assert bad.defect == defect
    assert difference[~bad.mask].max() <= parts.VISIBLE_LEVELS + 1
    assert difference[bad.mask].mean() > parts.VISIBLE_LEVELS
    assert 0.0005 < bad.mask.mean() < 0.02


def test_a_defect_is_somewhere_else_on_another_part() -> None:
    assert not np.array_equal(parts.draw(1, "dent").mask, parts.draw(2, "dent").mask)


def test_a_mixed_line_is_planned_from_its_seed() -> None:
    line = parts.mixed(40, 7)
    assert line == parts.mixed(40, 7)
    assert line != parts.mixed(40, 8)
    assert sum(defect is not None for _, defect in line) == 16
    assert {defect for _, defect in line} == {None, *DEFECTS}


def test_no_part_of_the_line_was_trained_on() -> None:
    trained = {parts.training_seed(7, index) for index in range(200)}
    assert trained.isdisjoint(seed for seed, _ in parts.mixed(200, 7))
