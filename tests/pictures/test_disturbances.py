from __future__ import annotations

from pathlib import Path
from typing import Dict, Tuple

import cv2
import numpy as np
import pytest

from edge_agent.pictures.disturbances import DISTURBANCES, Disturbance
from edge_agent.pictures.reader import PictureReader

BY_NAME: Dict[str, Disturbance] = {each.name: each for each in DISTURBANCES}
CASES = [(each.name, strength) for each in DISTURBANCES for strength in each.strengths]
DIRECTIONS = range(8)  # seeds


def scene(height: int = 256, width: int = 320, grey: bool = False) -> np.ndarray:
    """Soft spots of several colours, none of them near black or white."""
    random = np.random.default_rng(5)
    coarse = random.uniform(70, 170, (8, 10, 1 if grey else 3)).astype(np.float32)
    smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.rint(np.broadcast_to(smooth.reshape(height, width, -1), (height, width, 3))).astype(
        np.uint8
    )


def changed(name: str, strength: float, pixels: np.ndarray, seed: int = 0) -> np.ndarray:
    return BY_NAME[name].change(pixels, strength, np.random.default_rng(seed))


def away(name: str, strength: float) -> float:
    """How much a picture with fine texture changes: the mean over directions, in grey levels."""
    rough = np.random.default_rng(6).integers(-30, 31, (256, 320, 1))
    given = (scene() + rough).astype(np.uint8)
    found = [np.abs(changed(name, strength, given, seed) - given.astype(float)).mean()
             for seed in DIRECTIONS]  # fmt: skip
    return float(np.mean(found))


@pytest.mark.parametrize(("name", "strength"), CASES)
@pytest.mark.parametrize("size", [(64, 64), (91, 133)])
@pytest.mark.parametrize("grey", [False, True])
def test_a_picture_keeps_its_shape_and_the_given_one_stays_as_it_is(
    name: str, strength: float, size: Tuple[int, int], grey: bool
) -> None:
    given = scene(*size, grey=grey)
    before = given.copy()
    given.flags.writeable = False
    for seed in DIRECTIONS:
        after = changed(name, strength, given, seed)
        assert (after.shape, after.dtype) == (given.shape, np.uint8)
        assert np.array_equal(after, changed(name, strength, given, seed))
    assert np.array_equal(given, before)


@pytest.mark.parametrize("name", BY_NAME)
def test_a_higher_strength_changes_more(name: str) -> None:
    weak, usual, strong = (away(name, strength) for strength in BY_NAME[name].strengths)
    assert 0.0 < weak < usual < strong


@pytest.mark.parametrize("name", ["brightness", "contrast", "white balance", "rotation", "scale"])
def test_the_direction_is_drawn(name: str) -> None:
    strength = BY_NAME[name].strengths[2]
    found = {changed(name, strength, scene(), seed).tobytes() for seed in DIRECTIONS}
    assert len(found) == 2


def test_brightness_and_contrast_change_by_a_share() -> None:
    before = scene().astype(float)
    for seed in DIRECTIONS:
        brighter = changed("brightness", 10, scene(), seed).mean() / before.mean()
        assert abs(brighter - 1.0) == pytest.approx(0.1, abs=0.005)
        contrast = changed("contrast", 10, scene(), seed)
        assert contrast.mean() == pytest.approx(before.mean(), abs=0.5)
        assert abs(contrast.std() / before.std() - 1.0) == pytest.approx(0.1, abs=0.01)


def test_values_end_at_black_and_white() -> None:
    bright = np.full((64, 64, 3), 250, np.uint8)
    assert {int(changed("brightness", 20, bright, seed).max()) for seed in DIRECTIONS} == {200, 255}


def test_white_balance_moves_red_against_blue_and_leaves_green() -> None:
    before = scene()
    after = changed("white balance", 12, before)
    assert np.array_equal(after[..., 1], before[..., 1])
    red, _, blue = after.mean((0, 1)) / before.mean((0, 1)) - 1.0
    assert abs(red) == pytest.approx(0.12, abs=0.005)
    assert red == pytest.approx(-blue, abs=0.005)


@pytest.mark.parametrize("factor", [1, 2])
def test_lengths_are_told_for_a_picture_of_256_pixels(factor: int) -> None:
    before = scene(256 * factor, 320 * factor)
    grey = [cv2.cvtColor(each, cv2.COLOR_RGB2GRAY).astype(np.float32) for each in (
        before, changed("shift", 4, before)
    )]  # fmt: skip
    window = cv2.createHanningWindow(grey[0].shape[::-1], cv2.CV_32F)
    (x, y), _ = cv2.phaseCorrelate(*grey, window)
    assert np.hypot(x, y) == pytest.approx(4 * factor, rel=0.1)
    dead = changed("dead columns", 2, before)
    edges = (dead == 0).all((0, 2))
    assert edges.sum() == 2 * factor
    assert edges[: 2 * factor].all() or edges[-2 * factor :].all()


def test_a_blur_of_a_picture_twice_as_large_looks_the_same() -> None:
    point = np.zeros((64, 64, 3), np.uint8)
    point[32, 32] = 255
    small = changed("blur", 4, point)
    large = changed("blur", 4, np.repeat(np.repeat(point, 2, 0), 2, 1))
    halved = cv2.resize(large, (64, 64), interpolation=cv2.INTER_AREA)
    assert np.abs(small.astype(int) - halved).max() <= 12
    assert small.max() < 128


def test_a_turned_or_scaled_picture_keeps_its_middle() -> None:
    picture = np.full((101, 101, 3), 30, np.uint8)
    cv2.circle(picture, (50, 50), 6, (220, 220, 220), -1)
    cv2.circle(picture, (90, 50), 6, (220, 220, 220), -1)
    for name, strength, travels in (("rotation", 5, 40 * np.deg2rad(5)), ("scale", 5, 2.0)):
        after = changed(name, strength, picture)
        middle = _centre(after[:, 30:70])
        assert middle == pytest.approx((20, 50), abs=0.1)
        x, y = _centre(after[:, 76:])
        assert np.hypot(x + 76 - 90, y - 50) == pytest.approx(travels, abs=0.3)


def _centre(pixels: np.ndarray) -> Tuple[float, float]:
    moments = cv2.moments((pixels[..., 0].astype(np.float32) - 30).clip(0))
    return moments["m10"] / moments["m00"], moments["m01"] / moments["m00"]


@pytest.mark.parametrize("strength", BY_NAME["noise"].strengths)
def test_noise_has_the_deviation_that_is_told(strength: float) -> None:
    before = scene().astype(float)
    noise = changed("noise", strength, scene()) - before
    assert noise.std() == pytest.approx(strength, rel=0.1)
    assert noise.mean() == pytest.approx(0.0, abs=0.1)


def test_a_jpeg_is_that_of_a_file_of_the_same_quality(tmp_path: Path) -> None:
    path = tmp_path / "lossy.jpg"
    vivid = scene()
    vivid[64:128, 64:128] = (230, 30, 20)  # red: more of its colour is kept than of blue
    assert cv2.imwrite(str(path), vivid[..., ::-1], (cv2.IMWRITE_JPEG_QUALITY, 50))
    assert np.array_equal(changed("JPEG", 50, vivid), PictureReader().frame(path).pixels)
