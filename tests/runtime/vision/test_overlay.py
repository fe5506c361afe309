from __future__ import annotations

import numpy as np
import pytest

from edge_agent.runtime.vision import overlay
from edge_agent.types import Prediction, Region

GREEN = (35, 164, 54)


@pytest.fixture(name="image")
def _image() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (120, 160, 3), dtype=np.uint8)


def _anomalous(mask: np.ndarray, *regions: Region) -> Prediction:
    return Prediction(True, 0.9, 0.8, 0.5, regions=regions, mask=mask)


def test_a_normal_frame_keeps_every_pixel_below_the_caption(image: np.ndarray) -> None:
    before = image.copy()
    white = np.full_like(image, 255)
    picture = overlay.draw(image, Prediction(False, 0.9, 0.1, 0.5, mask=white))
    covered = overlay.caption_height(image)
    assert np.array_equal(picture[covered:], before[covered:])
    assert not np.array_equal(picture[:covered], before[:covered])
    assert np.array_equal(image, before)


def test_a_prediction_without_a_mask_gets_only_the_caption(image: np.ndarray) -> None:
    picture = overlay.draw(image, Prediction(True, 0.9, 0.8, 0.5))
    covered = overlay.caption_height(image)
    assert np.array_equal(picture[covered:], image[covered:])


def test_the_mask_is_blended_inside_and_solid_on_its_contour(image: np.ndarray) -> None:
    mask = np.full_like(image, 255)
    mask[40:80, 50:100] = GREEN
    picture = overlay.highlight(image, _anomalous(mask))
    expected = image[60, 70] * (1 - overlay.BLEND) + np.array(GREEN) * overlay.BLEND
    assert np.abs(picture[60, 70] - expected).max() <= 1
    assert tuple(picture[40, 70]) == GREEN
    outside = (mask == 255).all(axis=2)
    assert np.array_equal(picture[outside], image[outside])


def test_a_region_gets_a_box_around_it(image: np.ndarray) -> None:
    region = Region("anomaly", left=50, top=40, width=30, height=20, area=0.03, peak=0.9)
    picture = overlay.highlight(image, _anomalous(np.full_like(image, 255), region))
    changed = np.argwhere((picture != image).any(axis=2))
    assert changed.min(axis=0) == pytest.approx([37, 47], abs=1)
    assert changed.max(axis=0) == pytest.approx([63, 83], abs=1)
    assert np.array_equal(picture[40:60, 50:80], image[40:60, 50:80])


def test_the_caption_tells_the_verdicts_apart_by_colour(image: np.ndarray) -> None:
    bad = overlay.draw(image, Prediction(True, 0.9, 0.8, 0.5))
    good = overlay.draw(image, Prediction(False, 0.9, 0.1, 0.5))
    assert tuple(bad[0, 0]) == overlay.ANOMALOUS
    assert tuple(good[0, 0]) == overlay.NORMAL


@pytest.mark.parametrize("shape", [(1, 1), (8, 8), (16, 900), (900, 16), (1080, 1920)])
def test_frames_of_any_size_can_be_drawn_on(shape: tuple[int, int]) -> None:
    frame = np.zeros((*shape, 3), np.uint8)
    assert overlay.draw(frame, Prediction(True, 0.9, 0.8, 0.5)).shape == frame.shape
