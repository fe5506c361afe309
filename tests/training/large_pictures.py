"""Drawn 4K pictures of surfaces, good ones and ones with one small defect.

Between pictures the place moves by up to two pixels each way and the light by 3 %; the lens darkens
the corners.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Callable, Dict, Optional, Sequence, Tuple

import cv2
import numpy as np
from numpy.typing import NDArray

Plane = NDArray[np.float32]  # grey levels
Pixels = NDArray[np.uint8]
Size = Tuple[int, int]  # height, width

FOUR_K = 2160, 3840
SHIFT = 2  # pixels
LIGHT = 0.03
NOISE = 2.0  # grey levels
MARGIN = 16


def brushed(size: Size, random: np.random.Generator) -> Plane:
    """Metal with strokes along the picture, others on each part."""
    strokes = cv2.GaussianBlur(_noise(size, random), (0, 0), 24, sigmaY=0.8)
    return 150 + 12 * strokes / strokes.std()


def cast(size: Size, random: np.random.Generator) -> Plane:
    """A rough surface with grain of several sizes, another on each part."""
    grain = np.zeros(size, np.float32)
    for octave, share in ((1, 5.0), (3, 6.0), (12, 5.0)):
        small = _noise((size[0] // octave + 1, size[1] // octave + 1), random)
        layer = cv2.resize(cv2.GaussianBlur(small, (0, 0), 1), size[::-1])
        grain += share * layer / layer.std()
    return 120 + grain


def printed(size: Size, _: np.random.Generator) -> Plane:
    """The same print on each part: lines, rings and letters."""
    return _print(size).copy()


@lru_cache(maxsize=2)
def _print(size: Size) -> Plane:
    random = np.random.default_rng(5)
    plane = np.full(size, 205, np.uint8)
    unit = size[0] // 24
    for row in range(unit, size[0] - unit, 2 * unit):
        for column in range(unit, size[1] - unit, 2 * unit):
            ink, kind = float(random.uniform(40, 120)), random.integers(3)
            thickness = max(unit // 12, 1)
            if kind == 0:
                cv2.circle(plane, (column, row), unit // 2, ink, thickness, cv2.LINE_AA)
            elif kind == 1:
                end = (column + int(random.integers(-unit, unit)), row + unit // 2)
                cv2.line(plane, (column, row), end, ink, thickness, cv2.LINE_AA)
            else:
                text = "".join(map(chr, random.integers(65, 91, 2)))
                cv2.putText(plane, text, (column - unit // 2, row), 0, unit / 30, ink, thickness)
    return plane.astype(np.float32)


SURFACES: Dict[str, Callable[[Size, np.random.Generator], Plane]] = {
    "brushed": brushed, "cast": cast, "printed": printed,
}  # fmt: skip
DEFECTS = ("scratch", "spot", "stain")


def draw(
    surface: str, seed: int, defect: str = "", side: int = 0, size: Size = FOUR_K
) -> Tuple[Pixels, Pixels]:
    """Return a picture (H, W, 3) and its mask (H, W): 255 where the defect of `side` pixels is."""
    random = np.random.default_rng(seed)
    whole = (size[0] + 2 * MARGIN, size[1] + 2 * MARGIN)
    plane = SURFACES[surface](whole, random)
    top, left = (MARGIN + random.integers(-SHIFT, SHIFT + 1) for _ in range(2))
    plane = plane[top : top + size[0], left : left + size[1]]
    change = _defect(size, defect, side, random) if defect else np.zeros(size, np.float32)
    y, x = (np.linspace(-1, 1, length, dtype=np.float32) for length in size)
    shading = 1 - 0.12 * (y[:, None] ** 2 + x[None, :] ** 2)
    lit = (plane + change) * shading * random.uniform(1 - LIGHT, 1 + LIGHT)
    noisy = lit + NOISE * _noise(size, random)
    grey = np.clip(noisy, 0, 255).astype(np.uint8)
    mask = np.where(np.abs(change) > 4, np.uint8(255), np.uint8(0))
    return np.repeat(grey[..., None], 3, axis=2), mask


def write(
    folder: Path,
    surface: str,
    normal: int,
    bad: Sequence[Tuple[str, int]] = (),
    *,
    first_seed: int = 0,
    size: Size = FOUR_K,
    masks: Optional[Path] = None,
) -> Path:
    """Write good pictures and one for each defect and its side of `bad`; masks beside them."""
    for index in range(normal):
        _store(
            folder / "normal" / f"{index:03}.jpg", draw(surface, first_seed + index, size=size)[0]
        )
    for index, (defect, side) in enumerate(bad):
        pixels, mask = draw(surface, first_seed + 500 + index, defect, side, size)
        _store(folder / "anomaly" / f"{index:03}.jpg", pixels)
        if masks:
            _store(masks / f"{index:03}.png", mask)
    return folder


def _store(path: Path, pixels: Pixels) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), pixels, [cv2.IMWRITE_JPEG_QUALITY, 95])


def _defect(size: Size, kind: str, side: int, random: np.random.Generator) -> Plane:
    """Return what a defect adds: a thin line, a round spot, or a faint patch with soft borders."""
    change = np.zeros(size, np.float32)
    row, column = (int(random.integers(2 * side, length - 2 * side)) for length in size)
    sign = float(random.choice([-1.0, 1.0]))
    if kind == "scratch":
        angle = random.uniform(0, np.pi)
        reach = (side / 2 * np.cos(angle), side / 2 * np.sin(angle))
        ends = [(round(column + s * reach[0]), round(row + s * reach[1])) for s in (-1, 1)]
        cv2.line(change, ends[0], ends[1], 55.0 * sign, max(side // 8, 2), cv2.LINE_8)
    elif kind == "spot":
        cv2.circle(change, (column, row), side // 2, 45.0 * sign, -1, cv2.LINE_8)
    else:
        cv2.circle(change, (column, row), side // 2, 24.0 * sign, -1, cv2.LINE_8)
        change = cv2.GaussianBlur(change, (0, 0), side / 8)
    return change


def _noise(size: Size, random: np.random.Generator) -> Plane:
    return random.standard_normal(size, np.float32)
