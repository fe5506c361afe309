"""Large pictures judged in tiles: how many, and how a network of one size sees each of them.

The model's input is the whole picture at the resolution that its tiles have. What looks at places
alone, filters and convolutions, runs over it in one piece: a border between tiles would only hide
what lies across it. A network of a file sees tile after tile in one batch, and its features are
laid side by side. The score is that of the worst place, and the map is the picture's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Iterable, List, NamedTuple, Sequence, Tuple

import numpy as np

from edge_agent.training import defect_sizes
from edge_agent.training.features import STRIDE, FeatureExtractor

if TYPE_CHECKING:
    from edge_agent.training.graph import GraphBuilder, Size

TILE = 256  # pixels of the model's input, each way
OVERLAP = 32  # pixels that neighbours share
STEP = TILE - OVERLAP
MOST_TILES = 48  # each takes the time of a picture that isn't tiled
LARGE = 4  # times TILE that a picture's shorter side has, from which on tiles are tried
VERY_LARGE = 8  # times TILE, above which they are made where no bad image says what is needed
TWICE = 2  # pixels of the picture for one of the input, each way: a defect of 16 then has 8


class Tiles(NamedTuple):
    """How many tiles lie below and beside each other."""

    rows: int
    columns: int

    @classmethod
    def of_size(cls, size: Size) -> Tiles:
        """Return as many as cover a picture of `size` best."""
        rows, columns = (max(round((side - OVERLAP) / STEP), 1) for side in size)
        return cls(rows, columns)

    @classmethod
    def of_picture(cls, size: Size, pixels: float = TWICE) -> Tiles:
        """Return those of a picture of `size`; pixels: of it for one of the input, each way.

        MOST_TILES or fewer, for which the resolution becomes lower.
        """
        while True:
            tiles = cls.of_size((round(size[0] / pixels), round(size[1] / pixels)))
            if tiles.total <= MOST_TILES:
                return tiles
            pixels *= 1.02

    @classmethod
    def for_defects(cls, size: Size, shares: Iterable[float]) -> Tiles:
        """Return those of a picture of `size` that show most of the defects clearly.

        shares: the defects' sides, as `defect_sizes.of_masks` returns them.
        """
        side = defect_sizes.usual(shares, size)
        return cls.of_picture(size, max(side / defect_sizes.CLEAR, 1.0))

    @property
    def total(self) -> int:
        """How many they are."""
        return self.rows * self.columns

    @property
    def size(self) -> Size:
        """Height and width of the model's input, which they cover."""
        return OVERLAP + STEP * self.rows, OVERLAP + STEP * self.columns

    @property
    def starts(self) -> List[Tuple[int, int]]:
        """Return the first row and column of each tile in the input, row by row."""
        rows, columns = range(self.rows), range(self.columns)
        return [(STEP * row, STEP * column) for row in rows for column in columns]

    def __str__(self) -> str:
        return f"{self.rows}x{self.columns}"


@dataclass(frozen=True)
class TiledExtractor:
    """Shows each of the `tiles` to an extractor for pictures of TILE pixels each way."""

    extractor: FeatureExtractor
    tiles: Tiles

    @property
    def channels(self) -> int:
        """How many figures a patch has."""
        return self.extractor.channels

    def append(self, graph: GraphBuilder, rgb: str) -> str:
        """Append RGB planes (N, 3, H, W), 0-255 → features (N, channels, H/8, W/8)."""
        cut = [
            _slice(graph, rgb, (0, 3), (top, top + TILE), (left, left + TILE))
            for top, left in self.tiles.starts
        ]
        side = TILE // STRIDE
        batch = _reshape(graph, graph.add("Concat", *cut, axis=1), (-1, 3, TILE, TILE))
        seen = self.extractor.append(graph, batch)
        beside = _reshape(graph, seen, (-1, self.tiles.total * self.channels, side, side))
        own = [
            [self._own(graph, beside, row, column) for column in range(self.tiles.columns)]
            for row in range(self.tiles.rows)
        ]
        return graph.add("Concat", *(graph.add("Concat", *row, axis=3) for row in own), axis=2)

    def _own(self, graph: GraphBuilder, features: str, row: int, column: int) -> str:
        """Cut out what one tile alone shows, and half of what it shares."""
        first = (row * self.tiles.columns + column) * self.channels
        ys, xs = _own_part(row, self.tiles.rows), _own_part(column, self.tiles.columns)
        return _slice(graph, features, (first, first + self.channels), ys, xs)


def _own_part(index: int, count: int) -> Tuple[int, int]:
    """Return where a tile's own patches begin and end, on one axis."""
    half = OVERLAP // STRIDE // 2
    return (0 if index == 0 else half, TILE // STRIDE - (0 if index == count - 1 else half))


def _slice(graph: GraphBuilder, tensor: str, *bounds: Tuple[int, int]) -> str:
    """Append the part of an NCHW tensor between `bounds` of channels, rows and columns."""
    starts, ends = (graph.constant(each, np.int64) for each in zip(*bounds))
    return graph.add("Slice", tensor, starts, ends, graph.constant([1, 2, 3], np.int64))


def _reshape(graph: GraphBuilder, tensor: str, shape: Sequence[int]) -> str:
    return graph.add("Reshape", tensor, graph.constant(shape, np.int64))
