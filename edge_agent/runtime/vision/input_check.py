"""Tells pictures of parts from faults of the camera.

What is usual for a model is what its training saw (`manifest.Statistics`, of its normal images),
and what its golden samples show. The limits leave room for defects, which change little of a
picture's light, and for slow drift.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import List, Sequence, Tuple

from edge_agent.manifest import Statistics
from edge_agent.runtime.vision.light import Light
from edge_agent.types import CameraProblem

# Ten samples of a bell curve span three deviations, so half of that beyond either end is three
# from the middle. The levels are for a lamp that never changed in training: a tenth of a grey
# image, the change of light at which verdicts of trained models begin to fail.
BEYOND_SPAN = 0.5
BEYOND_LEVELS = 12.0

# Mean and deviation together: nearly all pixels are this close to 0, or to 255. Without the
# deviation bright parts on a dark field would count.
NEARLY_LEVELS = 16.0

# No structure: little contrast (six sets of parts have at least 7.4), or that of noise alone, which
# is lower where JPEG or a colour filter make it less rough.
BLANK_CONTRAST = 3.0  # levels of deviation
BLANK_CONTRAST_OF_NOISE = 1.2  # times its roughness

# No structure either: uneven light without an edge. Rounding to whole levels alone makes 20/12, but
# small pictures of parts that a model enlarges six times have no more than 1.
BLANK_SHARPNESS = 2.2  # where training saw three times as much
BLANK_SHARPNESS_UNKNOWN = 0.8

# Lone points and thin lines are as rough as noise. On a field that is black or white they move the
# mean little; noise that is cut off there moves it by two thirds of its deviation.
FIELD_SHARE = 0.6
POINTS_CONTRAST = 7.0  # of three bright pixels in the smallest frame; a scratch makes more

# What a Gaussian blur of half a pixel leaves, at model size; verdicts fail by one pixel.
BLURRED_SHARE = 1 / 3

FROZEN_FROM = 10  # equal pictures in a row; noise lets no two of a live sensor be equal
MOST_CAMERAS = 1024  # those seen last


class InputCheck:
    """Judges the light of one model's frames; may be used by any thread."""

    def __init__(self, statistics: Statistics, golden: Sequence[Light] = ()) -> None:
        """`golden`: of the pictures of the model's golden samples."""
        usual = statistics.brightness
        self._lowest, self._highest = usual or (255.0, 0.0)  # nothing is usual
        self._knows_brightness = usual is not None
        span = self._highest - self._lowest
        self._margin = BEYOND_LEVELS + BEYOND_SPAN * span if usual else 255.0
        knows_sharpness = statistics.sharpness is not None
        self._least_sharp = BLURRED_SHARE * (statistics.sharpness or (0.0, 0.0))[0]
        self._smooth = _smooth(statistics, golden)
        # Sheets without a mark are blank when they are good.
        self._may_be_blank = any(map(_is_blank, golden)) if golden else knows_sharpness
        self._may_be_one_line = not golden or any(light.is_one_line for light in golden)
        self._rows: OrderedDict[str, Tuple[int, int]] = OrderedDict()  # camera: digest, length
        self._lock = threading.Lock()

    def judge(self, light: Light, camera: str) -> Tuple[CameraProblem, ...]:
        """Return what is wrong with the picture that `camera` has just sent."""
        if light.brightness == 0.0:
            return (CameraProblem.BLACK,)
        problems = self._wrong_exposure(light)
        is_soft = light.sharpness < self._least_sharp
        is_blank = _is_blank(light) and (is_soft or not self._may_be_blank)
        is_one_line = light.is_one_line and not self._may_be_one_line
        if is_blank or is_one_line or light.sharpness < self._smooth:
            return (*problems, CameraProblem.BLANK)  # where equal pictures prove nothing
        if is_soft and not problems:  # edges are lower in the wrong light anyway
            problems.append(CameraProblem.BLURRED)
        if self._equal_in_a_row(light.digest, camera) >= FROZEN_FROM:
            problems.append(CameraProblem.FROZEN)
        return tuple(problems)

    def _wrong_exposure(self, light: Light) -> List[CameraProblem]:
        level, spread = light.brightness, light.contrast
        if not self._knows_brightness:
            shows_no_part = _is_blank(light) or (light.is_noise and spread < POINTS_CONTRAST)
            if not shows_no_part:
                return []  # for all that is known, parts lie on a dark or bright field
        nearly_black = level + spread < NEARLY_LEVELS and level < self._lowest
        if nearly_black or level < self._lowest - self._margin:
            return [CameraProblem.DARK]
        nearly_white = level - spread > 255.0 - NEARLY_LEVELS and level > self._highest
        if nearly_white or level > self._highest + self._margin:
            return [CameraProblem.BRIGHT]
        return []

    def _equal_in_a_row(self, digest: int, camera: str) -> int:
        with self._lock:
            last, length = self._rows.pop(camera, (digest, 0))
            length = length + 1 if last == digest else 1
            self._rows[camera] = (digest, length)
            if len(self._rows) > MOST_CAMERAS:
                self._rows.popitem(last=False)
        return length


def _smooth(statistics: Statistics, golden: Sequence[Light]) -> float:
    """Return the sharpness below which a picture shows no more than uneven light."""
    known = statistics.sharpness
    limit = BLANK_SHARPNESS if known else BLANK_SHARPNESS_UNKNOWN
    usual = known[:1] if known else [light.sharpness for light in golden]
    return min([limit, *(BLURRED_SHARE * sharpness for sharpness in usual)])


def _is_blank(light: Light) -> bool:
    """Whether there is no structure in a picture, but perhaps noise."""
    from_field = min(light.brightness, 255.0 - light.brightness)
    if from_field < FIELD_SHARE * light.contrast:
        return light.contrast < BLANK_CONTRAST
    return light.contrast < max(BLANK_CONTRAST, BLANK_CONTRAST_OF_NOISE * light.roughness)
