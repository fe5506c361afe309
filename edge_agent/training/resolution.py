"""At what size the model gets its pictures: at one glance, or larger, in tiles."""

from __future__ import annotations

from typing import TYPE_CHECKING, Mapping, NamedTuple, Optional, Tuple, Union

from typing_extensions import Literal

from edge_agent.errors import InvalidConfiguration
from edge_agent.training import defect_sizes
from edge_agent.training.ensemble import FEWEST_BAD
from edge_agent.training.tiles import LARGE, TILE, VERY_LARGE, Tiles

if TYPE_CHECKING:
    from pathlib import Path

    from edge_agent.training.graph import Size

TileChoice = Union[Literal["auto", "none"], Tiles]
AUTO: Literal["auto"] = "auto"
NONE: Literal["none"] = "none"


class Resolution(NamedTuple):
    """Height and width of the model's input, and the tiles it is made of, if it is."""

    size: Size
    tiles: Optional[Tiles] = None

    @classmethod
    def of_tiles(cls, tiles: Tiles) -> Resolution:
        """Return that of `tiles`."""
        return cls(tiles.size, tiles)


def choices(
    wanted: TileChoice, glance: Size, picture: Size, defects: Mapping[Path, float], bad: int
) -> Tuple[Resolution, ...]:
    """Return what to try, the fastest first; of several, validation on bad images decides.

    glance: the size at one glance. picture: of the pictures. defects: as
    `defect_sizes.of_masks` returns them. bad: how many bad images there are.
    """
    if isinstance(wanted, Tiles):
        return (Resolution.of_tiles(wanted),)
    at_one_glance = Resolution(glance)
    if wanted == NONE or min(picture) < LARGE * TILE:
        return (at_one_glance,)
    if len(defects) * 2 >= max(bad, 1):
        if defect_sizes.usual(defects.values(), glance) >= defect_sizes.CLEAR:
            return (at_one_glance,)
        return (Resolution.of_tiles(Tiles.for_defects(picture, defects.values())),)
    in_tiles = Resolution.of_tiles(Tiles.of_picture(picture))
    if bad >= FEWEST_BAD:
        return (at_one_glance, in_tiles)
    return (in_tiles if min(picture) > VERY_LARGE * TILE else at_one_glance,)


def check(wanted: TileChoice, size: Optional[Size]) -> None:
    """Raise InvalidConfiguration when both tiles and a size are given."""
    if isinstance(wanted, Tiles) and size is not None:
        raise InvalidConfiguration(
            f"--tiles {wanted} makes the model's input {wanted.size[0]}x{wanted.size[1]} pixels; "
            "leave out --size."
        )
