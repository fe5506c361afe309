"""What goes wrong on the line: each function damages one plate, at random."""

from __future__ import annotations

from typing import TYPE_CHECKING, Callable, Dict, Tuple

import cv2
import numpy as np

from edge_agent.demo.plate import (
    COUNTERSINK,
    GROOVE,
    HALF_HEIGHT,
    HALF_WIDTH,
    HEIGHT,
    HOLES,
    WIDTH,
    distance_to,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edge_agent.demo.plate import Plate

    Grid = NDArray[np.float32]

CLEAR_OF_EDGE_PX = 34.0


def scratch(plate: Plate, random: np.random.Generator) -> None:
    """Cut a thin, slightly bent groove with a raised burr."""
    x, y = _spot(random)
    direction = random.uniform(0.35, np.pi - 0.35)
    length, bend = random.uniform(40.0, 100.0), random.uniform(-0.002, 0.002)
    along = (plate.x - x) * np.cos(direction) + (plate.y - y) * np.sin(direction)
    across = (plate.y - y) * np.cos(direction) - (plate.x - x) * np.sin(direction)
    across = across - bend * along**2
    within = np.clip((length / 2 - np.abs(along)) / 14.0, 0.0, 1.0)
    groove = np.exp(-((across / 2.2) ** 2)) - 0.45 * np.exp(-(((np.abs(across) - 5.0) / 2.0) ** 2))
    plate.relief -= np.asarray(random.uniform(1.4, 3.2) * within * groove, np.float32)


def dent(plate: Plate, random: np.random.Generator) -> None:
    """Press a round hollow into the face."""
    x, y = _spot(random)
    radius, squeeze = random.uniform(9.0, 18.0), random.uniform(0.8, 1.25)
    away = np.hypot((plate.x - x) * squeeze, (plate.y - y) / squeeze) / radius
    hollow = np.exp(-(away**4)) - 0.18 * np.exp(-(((away - 1.25) / 0.22) ** 2))
    plate.relief -= np.asarray(random.uniform(2.0, 5.0) * hollow, np.float32)


def stain(plate: Plate, random: np.random.Generator) -> None:
    """Leave a blot of dried oil with a darker rim."""
    x, y = _spot(random)
    away = _blob(plate, x, y, random.uniform(12.0, 26.0), random)
    body = np.clip(0.5 - away / 6.0, 0.0, 1.0)
    rim = np.exp(-((away / 4.0) ** 2))
    plate.stain += np.asarray(
        np.clip(0.5 * body + 0.3 * rim, 0.0, 1.0) * random.uniform(0.4, 0.9), np.float32
    )


def missing_hole(plate: Plate, random: np.random.Generator) -> None:
    """Forget to drill one of the screw holes."""
    plate.holes.pop(int(random.integers(len(plate.holes))))


def chip(plate: Plate, random: np.random.Generator) -> None:
    """Break a piece off the plate's edge."""
    share = random.uniform(-0.7, 0.7)
    side = -1.0 if random.random() < 0.5 else 1.0
    if random.random() < 0.5:
        x, y = share * HALF_WIDTH, side * (HALF_HEIGHT + 6.0)
    else:
        x, y = side * (HALF_WIDTH + 6.0), share * HALF_HEIGHT
    plate.cuts.append(_blob(plate, x, y, random.uniform(20.0, 32.0), random))


def _spot(random: np.random.Generator) -> Tuple[float, float]:
    """Choose a place on the face, clear of the edge, the rings and the screw holes."""
    round_features = [(0.0, 0.0, GROOVE), *((x, y, COUNTERSINK) for x, y in HOLES)]
    while True:
        x = random.uniform(-1.0, 1.0) * (HALF_WIDTH - CLEAR_OF_EDGE_PX)
        y = random.uniform(-1.0, 1.0) * (HALF_HEIGHT - CLEAR_OF_EDGE_PX)
        if all(np.hypot(x - a, y - b) > r + CLEAR_OF_EDGE_PX for a, b, r in round_features):
            return float(x), float(y)


def _blob(plate: Plate, x: float, y: float, radius: float, random: np.random.Generator) -> Grid:
    """Roughly the signed distance (px) of an irregular disc around (x, y)."""
    ragged = np.asarray(random.standard_normal((HEIGHT // 24, WIDTH // 24)), np.float32)
    ragged = cv2.resize(ragged, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    away = distance_to(plate, x, y) - np.float32(radius) * (1.0 + 0.16 * ragged)
    return np.asarray(away, np.float32)


DEFECTS: Dict[str, Callable[[Plate, np.random.Generator], None]] = {
    "scratch": scratch,
    "dent": dent,
    "stain": stain,
    "missing hole": missing_hole,
    "chip": chip,
}
