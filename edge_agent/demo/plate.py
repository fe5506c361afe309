"""The part on the belt: a machined plate with four screw holes, a brass bushing and a mark.

Everything is built from signed distances (px, negative inside), so edges come out smooth without
drawing at a larger size. Defects change a `Plate` before `surface` builds it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, List, Tuple

import cv2
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Grid = NDArray[np.float32]

WIDTH, HEIGHT = 960, 720
HALF_WIDTH, HALF_HEIGHT, CORNER = 356.0, 246.0, 46.0  # of the plate, px
CHAMFER = 9.0
BORE, BUSHING, GROOVE = 84.0, 114.0, 142.0  # radii around the middle, px
HOLE, COUNTERSINK = 31.0, 49.0  # radii, px
HOLES = ((-278.0, -168.0), (278.0, -168.0), (-278.0, 168.0), (278.0, 168.0))
ALUMINIUM, BRASS = (0.66, 0.675, 0.69), (0.70, 0.575, 0.34)
OIL = (0.50, 0.40, 0.24)
MAXIMUM_SHIFT_PX, MAXIMUM_TURN_DEG = 4.0, 1.0


@dataclass
class Plate:
    """One plate as it lies on the belt; every grid is float32 of shape (HEIGHT, WIDTH).

    `x`, `y`: the pixel in the plate's own frame, px from its middle. `relief`: what defects add
    to the height, px. `stain`: 0 clean to 1 stained. `cuts`: signed distances of what broke off.
    """

    x: Grid
    y: Grid
    turn_deg: float
    shift: Tuple[float, float]
    relief: Grid
    stain: Grid
    holes: List[Tuple[float, float]]
    cuts: List[Grid]


@dataclass(frozen=True)
class Surface:
    """What the light falls on: height (px), colour (RGB, 0 to 1), cover (1 plate, 0 belt)."""

    height: Grid
    colour: Grid
    cover: Grid


def lay(random: np.random.Generator) -> Plate:
    """Lay a faultless plate on the belt, never twice at quite the same place and angle."""
    shift = tuple(float(value) for value in random.uniform(-1.0, 1.0, 2) * MAXIMUM_SHIFT_PX)
    turn_deg = float(random.uniform(-1.0, 1.0)) * MAXIMUM_TURN_DEG
    columns, rows = np.meshgrid(
        np.arange(WIDTH, dtype=np.float32), np.arange(HEIGHT, dtype=np.float32)
    )
    columns -= np.float32(WIDTH / 2 + shift[0])
    rows -= np.float32(HEIGHT / 2 + shift[1])
    cosine, sine = (
        np.float32(np.cos(np.radians(turn_deg))),
        np.float32(np.sin(np.radians(turn_deg))),
    )
    nothing = np.zeros((HEIGHT, WIDTH), np.float32)
    return Plate(
        x=columns * cosine + rows * sine,
        y=rows * cosine - columns * sine,
        turn_deg=turn_deg,
        shift=(shift[0], shift[1]),
        relief=nothing,
        stain=nothing.copy(),
        holes=list(HOLES),
        cuts=[],
    )


def surface(plate: Plate) -> Surface:
    """Build height, colour and cover of `plate`."""
    radius = distance_to(plate, 0.0, 0.0)
    distance = _outline(plate, radius)
    height = np.float32(CHAMFER) * _ramp(-distance / np.float32(CHAMFER))
    height += _countersinks(plate) + _rings(radius) - np.float32(1.6) * _mark(plate)
    height += plate.relief
    return Surface(height, _colour(radius, plate.stain), np.clip(0.5 - distance, 0.0, 1.0))


def distance_to(plate: Plate, x: float, y: float) -> Grid:
    """How far every pixel is from (x, y) of the plate's frame, px."""
    return np.asarray(cv2.magnitude(plate.x - np.float32(x), plate.y - np.float32(y)), np.float32)


def _outline(plate: Plate, radius: Grid) -> Grid:
    """Signed distance of the metal: the rounded plate less bore, holes and what broke off."""
    beside = np.abs(plate.x) - np.float32(HALF_WIDTH - CORNER)
    above = np.abs(plate.y) - np.float32(HALF_HEIGHT - CORNER)
    outside = cv2.magnitude(np.maximum(beside, 0.0), np.maximum(above, 0.0))
    distance = outside + np.minimum(np.maximum(beside, above), 0.0) - np.float32(CORNER)
    distance = np.maximum(distance, np.float32(BORE) - radius)
    for x, y in plate.holes:
        distance = np.maximum(distance, np.float32(HOLE) - distance_to(plate, x, y))
    for cut in plate.cuts:
        distance = np.maximum(distance, -cut)
    return np.asarray(distance, np.float32)


def _countersinks(plate: Plate) -> Grid:
    depth = np.zeros_like(plate.x)
    for x, y in plate.holes:
        away = distance_to(plate, x, y)
        depth -= 7.0 * (1.0 - _ramp((away - HOLE) / np.float32(COUNTERSINK - HOLE)))
    return depth


def _rings(radius: Grid) -> Grid:
    """Raise the bushing a little and run a groove round it."""
    bushing = 3.0 * _ramp((BUSHING - radius) / 4.0)
    groove = np.exp(-(((radius - GROOVE) / 4.0) ** 2))
    return np.asarray(bushing - 3.0 * groove, np.float32)


def _mark(plate: Plate) -> Grid:
    """Engrave part number and arrow, 0 to 1, turned and shifted with the plate."""
    ink = np.zeros((HEIGHT, WIDTH), np.uint8)
    middle = (WIDTH // 2, HEIGHT // 2)
    font = cv2.FONT_HERSHEY_SIMPLEX
    cv2.putText(ink, "EA-1042", (middle[0] - 318, middle[1] + 6), font, 1.05, 255, 4, cv2.LINE_AA)
    cv2.putText(ink, "REV C", (middle[0] - 318, middle[1] + 50), font, 0.8, 255, 3, cv2.LINE_AA)
    arrow = np.array([(190, 26), (300, 26), (245, -44)], np.int32) + np.array(middle, np.int32)
    cv2.polylines(ink, [arrow.reshape(-1, 1, 2)], True, 255, 5, cv2.LINE_AA)
    turn = cv2.getRotationMatrix2D(middle, -plate.turn_deg, 1.0)
    turn[:, 2] += plate.shift
    turned = cv2.warpAffine(ink, turn, (WIDTH, HEIGHT), flags=cv2.INTER_LINEAR)
    return np.asarray(cv2.GaussianBlur(turned, (0, 0), 1.0), np.float32) / np.float32(255.0)


def _colour(radius: Grid, stain: Grid) -> Grid:
    brass = np.clip(BUSHING + 0.5 - radius, 0.0, 1.0)
    channels = []
    for aluminium, gold, oil in zip(ALUMINIUM, BRASS, OIL):
        metal = aluminium + brass * np.float32(gold - aluminium)
        channels.append(metal * (1.0 - stain * np.float32(1.0 - oil)))
    return np.asarray(cv2.merge(channels), np.float32)


def _ramp(share: Grid) -> Grid:
    """0 up to 0, 1 from 1 on, smooth in between."""
    inside = np.clip(share, 0.0, 1.0)
    return np.asarray(inside * inside * (3.0 - 2.0 * inside), np.float32)
