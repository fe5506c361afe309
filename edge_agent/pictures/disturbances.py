"""What changes between two pictures of the same part in a plant: light, place, focus, camera."""

from __future__ import annotations

from typing import TYPE_CHECKING, Callable, NamedTuple, Tuple

import cv2
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Pixels = NDArray[np.uint8]

SIDE = 256.0  # pixels of a picture's shorter side, that lengths are given for


class Disturbance(NamedTuple):
    """One change of a picture.

    change: takes RGB pixels (H, W, 3) uint8, a strength and a source of chance, which a direction
    or sign comes from; returns the same shape. strengths: a weak, a usual and a strong one.
    unit: of a strength, with a place for its figure.
    """

    name: str
    unit: str
    strengths: Tuple[float, float, float]
    change: Callable[[Pixels, float, np.random.Generator], Pixels]


def _either(random: np.random.Generator) -> float:
    """Return 1.0 or -1.0."""
    return float(random.choice((-1.0, 1.0)))


def _brightness(pixels: Pixels, percent: float, random: np.random.Generator) -> Pixels:
    return _clipped(pixels * np.float32(1.0 + _either(random) * percent / 100.0))


def _contrast(pixels: Pixels, percent: float, random: np.random.Generator) -> Pixels:
    factor, mean = 1.0 + _either(random) * percent / 100.0, pixels.mean()
    return _clipped(pixels * np.float32(factor) + np.float32(mean - factor * mean))


def _white_balance(pixels: Pixels, percent: float, random: np.random.Generator) -> Pixels:
    """Redder and less blue, or the other way round."""
    away = _either(random) * percent / 100.0
    factors: NDArray[np.float32] = np.array([1.0 + away, 1.0, 1.0 - away], np.float32)
    return _clipped(np.multiply(pixels, factors, dtype=np.float32))


def _shift(pixels: Pixels, length: float, random: np.random.Generator) -> Pixels:
    angle = random.uniform(0.0, 2.0 * np.pi)
    length *= _scale(pixels)
    x, y = length * np.cos(angle), length * np.sin(angle)
    return _warped(pixels, np.array([[1.0, 0.0, x], [0.0, 1.0, y]]))


def _rotation(pixels: Pixels, degrees: float, random: np.random.Generator) -> Pixels:
    return _turned(pixels, _either(random) * degrees, 1.0)


def _size(pixels: Pixels, percent: float, random: np.random.Generator) -> Pixels:
    return _turned(pixels, 0.0, 1.0 + _either(random) * percent / 100.0)


def _blur(pixels: Pixels, sigma: float, _random: np.random.Generator) -> Pixels:
    return np.asarray(cv2.GaussianBlur(pixels, (0, 0), max(sigma * _scale(pixels), 0.01)), np.uint8)


def _noise(pixels: Pixels, deviation: float, random: np.random.Generator) -> Pixels:
    return _clipped(pixels + deviation * random.standard_normal(pixels.shape, np.float32))


def _jpeg(pixels: Pixels, loss: float, _random: np.random.Generator) -> Pixels:
    """Save with quality 100 - `loss`."""
    blue_first = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    _, content = cv2.imencode(".jpg", blue_first, (cv2.IMWRITE_JPEG_QUALITY, round(100.0 - loss)))
    blue_first = np.asarray(cv2.imdecode(content, cv2.IMREAD_COLOR), np.uint8)
    return np.asarray(cv2.cvtColor(blue_first, cv2.COLOR_BGR2RGB), np.uint8)


def _dead_column(pixels: Pixels, count: float, random: np.random.Generator) -> Pixels:
    """Black columns at the left or right edge."""
    changed = pixels.copy()
    width = round(count * max(_scale(pixels), 1.0))
    changed[:, slice(width) if random.random() < 0.5 else slice(-width, None)] = 0
    return changed


DISTURBANCES = (
    Disturbance("brightness", "±{} %", (5, 10, 20), _brightness),
    Disturbance("contrast", "±{} %", (5, 10, 20), _contrast),
    Disturbance("white balance", "±{} %", (3, 6, 12), _white_balance),
    Disturbance("shift", "{} px of 256", (1, 2, 4), _shift),
    Disturbance("rotation", "±{}°", (1, 3, 5), _rotation),
    Disturbance("scale", "±{} %", (1, 3, 5), _size),
    Disturbance("blur", "sigma {} px of 256", (0.5, 1, 2), _blur),
    Disturbance("noise", "sigma {} grey levels", (1, 2, 4), _noise),
    Disturbance("JPEG", "quality lower by {}", (20, 50, 70), _jpeg),
    Disturbance("dead columns", "{} px of 256", (1, 2, 4), _dead_column),
)


def _scale(pixels: Pixels) -> float:
    """Return how many pixels of the picture one of SIDE is."""
    return float(min(pixels.shape[:2])) / SIDE


def _turned(pixels: Pixels, degrees: float, factor: float) -> Pixels:
    height, width = pixels.shape[:2]
    centre = ((width - 1) / 2.0, (height - 1) / 2.0)
    return _warped(pixels, np.asarray(cv2.getRotationMatrix2D(centre, degrees, factor)))


def _warped(pixels: Pixels, matrix: NDArray[np.float64]) -> Pixels:
    """Move the picture; what comes in at a border mirrors what is there."""
    size = (pixels.shape[1], pixels.shape[0])
    moved = cv2.warpAffine(pixels, matrix, size, borderMode=cv2.BORDER_REFLECT_101)
    return np.asarray(moved, np.uint8)


def _clipped(values: NDArray[np.floating]) -> Pixels:
    return np.asarray(np.clip(np.rint(values), 0, 255), np.uint8)
