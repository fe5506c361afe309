from __future__ import annotations

from pathlib import Path
from typing import Dict, Tuple

import pytest

from edge_agent.errors import InvalidConfiguration
from edge_agent.training import resolution
from edge_agent.training.resolution import AUTO, NONE, Resolution, TileChoice
from edge_agent.training.tiles import Tiles

GLANCE, FOUR_K = (192, 384), (2160, 3840)
AT_ONE_GLANCE = Resolution(GLANCE)


def chosen(
    wanted: TileChoice, picture: Tuple[int, int], sides: Tuple[float, ...] = (), bad: int = 0
) -> Tuple[Resolution, ...]:
    """sides: of the defects in the masks, in pixels of the picture."""
    mean_side = (picture[0] * picture[1]) ** 0.5
    defects: Dict[Path, float] = {Path(str(i)): side / mean_side for i, side in enumerate(sides)}
    return resolution.choices(wanted, GLANCE, picture, defects, max(bad, len(sides)))


@pytest.mark.parametrize("picture", [(768, 576), (460, 1130), (1023, 4000)])
def test_pictures_that_a_glance_shows_are_not_tiled(picture: Tuple[int, int]) -> None:
    assert chosen(AUTO, picture, (5.0,) * 9) == (AT_ONE_GLANCE,)


def test_no_tiles_are_made_where_none_are_wanted() -> None:
    assert chosen(NONE, FOUR_K, (16.0,) * 9) == (AT_ONE_GLANCE,)


def test_the_tiles_that_are_named_are_made() -> None:
    assert chosen(Tiles(2, 3), (300, 400)) == (Resolution((480, 704), Tiles(2, 3)),)


def test_very_large_pictures_without_bad_ones_are_tiled() -> None:
    assert chosen(AUTO, FOUR_K) == (Resolution.of_tiles(Tiles(5, 8)),)
    assert chosen(AUTO, (1080, 1920)) == (AT_ONE_GLANCE,)


def test_bad_images_without_masks_decide_by_validation() -> None:
    assert chosen(AUTO, FOUR_K, bad=30) == (AT_ONE_GLANCE, Resolution.of_tiles(Tiles(5, 8)))
    assert chosen(AUTO, FOUR_K, (16.0,) * 3, bad=30) == chosen(AUTO, FOUR_K, bad=30)


def test_the_defects_in_the_masks_say_how_many_tiles_are_made() -> None:
    assert chosen(AUTO, FOUR_K, (300.0,) * 9) == (AT_ONE_GLANCE,)
    (medium,), (small,) = chosen(AUTO, FOUR_K, (48.0,) * 9), chosen(AUTO, FOUR_K, (16.0,) * 9)
    assert medium.tiles == Tiles(1, 3)
    assert small.tiles == Tiles(5, 8)


def test_tiles_and_a_size_exclude_each_other() -> None:
    resolution.check(AUTO, (256, 256))
    with pytest.raises(InvalidConfiguration, match=r"--tiles 2x3 .* 480x704 pixels; leave out"):
        resolution.check(Tiles(2, 3), (256, 256))
