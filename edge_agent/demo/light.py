"""The camera station: belt, lamp and sensor. Turns a surface into the picture of a camera."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

from edge_agent.demo.plate import BUSHING, HEIGHT, WIDTH, distance_to

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edge_agent.demo.plate import Plate, Surface

    Grid = NDArray[np.float32]

BELT = (0.115, 0.145, 0.150)
SHADOW_PX = (9.0, 12.0)
NOISE_LEVELS = 2.2  # standard deviation of the sensor's noise, grey levels


@dataclass(frozen=True)
class Station:
    """How the world stood when the shutter opened: every part meets it a little different.

    Grids are float32 of shape (HEIGHT, WIDTH): `grain` of the brushed metal, `weave` of the belt
    (both around 0), `ramp` of the lamp (around 1), `noise` of the sensor (grey levels). `lamp` is
    the unit vector towards it: x to the right, y down, z to the camera.
    """

    lamp: Grid
    grain: Grid
    weave: Grid
    ramp: Grid
    noise: Grid


def set_up(plate: Plate, random: np.random.Generator) -> Station:
    """Draw lamp, metal grain, belt and noise for one picture of `plate`."""
    lamp = np.array([-0.45, -0.60, 0.80], np.float32)
    lamp += np.asarray(random.uniform(-0.05, 0.05, 3), np.float32)
    return Station(
        lamp=lamp / np.linalg.norm(lamp),
        grain=_grain(plate, random),
        weave=_weave(random),
        ramp=_lamp_ramp(plate, random),
        noise=_normal(random, (HEIGHT, WIDTH)) * np.float32(NOISE_LEVELS),
    )


def shine(surface: Surface, station: Station) -> Grid:
    """Light `surface`; returns the picture without noise, float32 (HEIGHT, WIDTH, 3), 0 to 255."""
    light = np.float32(255.0) * station.ramp
    on_metal = light * surface.cover * _reflected(surface.height, station)
    on_belt = light * (1.0 - surface.cover) * _belt(surface.cover, station.weave)
    channels = [on_metal * surface.colour[..., i] + on_belt * BELT[i] for i in range(3)]
    return np.asarray(np.clip(cv2.merge(channels), 0.0, 255.0), np.float32)


def expose(picture: Grid, station: Station) -> NDArray[np.uint8]:
    """Add the sensor's noise; returns uint8 RGB of the same shape."""
    return np.asarray(np.clip(picture + station.noise[..., None] + 0.5, 0.0, 255.0), np.uint8)


def _reflected(height: Grid, station: Station) -> Grid:
    """Diffuse and glossy light from a surface of `height`, about 1 on the flat."""
    slope_x = cv2.Sobel(height, cv2.CV_32F, 1, 0, ksize=3, scale=1 / 8)
    slope_y = cv2.Sobel(height, cv2.CV_32F, 0, 1, ksize=3, scale=1 / 8)
    length = np.sqrt(slope_x**2 + slope_y**2 + 1.0)
    half = station.lamp + np.array([0.0, 0.0, 1.0], np.float32)
    half = half / np.linalg.norm(half)
    diffuse = _towards(slope_x, slope_y, station.lamp) / length
    gloss = (_towards(slope_x, slope_y, half) / length) ** 14
    light = 0.22 + 0.85 * diffuse + 0.42 * gloss
    return np.asarray(light * (1.0 + station.grain), np.float32)


def _towards(slope_x: Grid, slope_y: Grid, direction: Grid) -> Grid:
    facing = direction[2] - slope_x * direction[0] - slope_y * direction[1]
    return np.asarray(np.maximum(facing, 0.0), np.float32)


def _belt(cover: Grid, weave: Grid) -> Grid:
    """Light from the rubber, about 1, with the soft shadow of the plate on it."""
    move = np.array([[1.0, 0.0, SHADOW_PX[0]], [0.0, 1.0, SHADOW_PX[1]]], np.float32)
    shadow = cv2.GaussianBlur(cv2.warpAffine(cover, move, (WIDTH, HEIGHT)), (0, 0), 9.0)
    return np.asarray((1.0 + weave) * (1.0 - 0.72 * shadow), np.float32)


def _grain(plate: Plate, random: np.random.Generator) -> Grid:
    """Straight brushing on the plate, turned rings on the bushing."""
    fine = cv2.blur(_normal(random, (HEIGHT, WIDTH)), (81, 1))
    broad = cv2.GaussianBlur(cv2.blur(_normal(random, (HEIGHT, WIDTH)), (301, 1)), (0, 0), 2.0)
    brushed = 0.26 * fine + 0.25 * broad
    rings = cv2.GaussianBlur(_normal(random, (1, 512)), (0, 0), 0.8).ravel() * 0.06
    radius = distance_to(plate, 0.0, 0.0)
    turned = rings[np.minimum(radius, 511.0).astype(np.int32)]
    return np.asarray(np.where(radius < BUSHING, turned, brushed), np.float32)


def _weave(random: np.random.Generator) -> Grid:
    grain = cv2.GaussianBlur(_normal(random, (HEIGHT, WIDTH)), (0, 0), 1.1)
    patches = cv2.resize(_normal(random, (9, 12)), (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    return np.asarray(0.45 * grain + 0.04 * patches, np.float32)


def _lamp_ramp(plate: Plate, random: np.random.Generator) -> Grid:
    """Exposure, fall-off over the picture and the sheen a brushed surface shows across it."""
    across, down = random.uniform(-0.05, 0.05, 2)
    exposure, middle = random.uniform(0.96, 1.04), random.uniform(-50.0, 50.0)
    falling = 1.0 + across * plate.x / (WIDTH / 2) + (down - 0.06) * plate.y / (HEIGHT / 2)
    sheen = 0.14 * np.exp(-(((plate.x + 90.0 - middle) / 260.0) ** 2))
    return np.asarray(exposure * (falling + sheen), np.float32)


def _normal(random: np.random.Generator, shape: tuple[int, ...]) -> Grid:
    return random.standard_normal(shape, dtype=np.float32)
