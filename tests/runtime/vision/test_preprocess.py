from __future__ import annotations

from typing import Tuple

import cv2
import numpy as np
import pytest

from edge_agent.errors import InvalidFrame
from edge_agent.manifest import InputSpec
from edge_agent.runtime.vision.frame import FrameReader
from edge_agent.runtime.vision.preprocess import check_size, item_shape, write_input
from edge_agent.types import Bitmap, Frame

IMAGE = np.random.default_rng(3).integers(0, 256, (120, 90, 3)).astype(np.uint8)


def spec(**changes: object) -> InputSpec:
    return InputSpec.model_validate(
        {"tensor": "x", "height": 64, "width": 48, "resize": "area", **changes}
    )


def test_a_uint8_frame_lands_resized_in_its_slot_and_nowhere_else() -> None:
    batch = np.zeros((3, *item_shape(spec())), np.uint8)
    pixels = write_input(Frame(IMAGE), spec(), batch[1])
    assert np.shares_memory(pixels, batch[1])
    assert (batch[1] == cv2.resize(IMAGE, (48, 64), interpolation=cv2.INTER_AREA)).all()
    assert not batch[0].any()
    assert not batch[2].any()


def test_a_frame_of_the_models_own_size_is_copied_as_it_is() -> None:
    slot = np.zeros((120, 90, 3), np.uint8)
    write_input(Frame(IMAGE), spec(height=120, width=90), slot)
    assert (slot == IMAGE).all()


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_float_models_get_scaled_and_normalised_planes(layout: str) -> None:
    own = spec(
        layout=layout, dtype="float32", scale=1 / 255, mean=[0.5, 0.4, 0.3], std=[0.2, 0.3, 0.4]
    )
    slot = np.zeros(item_shape(own), np.float32)
    pixels = write_input(Frame(IMAGE), own, slot)
    resized = cv2.resize(IMAGE, (48, 64), interpolation=cv2.INTER_AREA)
    expected = (resized / 255 - [0.5, 0.4, 0.3]) / [0.2, 0.3, 0.4]
    planes = slot.transpose(1, 2, 0) if layout == "NCHW" else slot
    np.testing.assert_allclose(planes, expected, atol=1e-5)
    assert (pixels == resized).all()  # what it was before the normalisation
    assert pixels.dtype == np.uint8


def test_rows_padded_to_four_bytes_are_read_without_the_padding() -> None:
    width, height = 65, 70
    rows = np.full((height, 196), 7, np.uint8)
    rows[:, :195] = np.arange(height, dtype=np.uint8)[:, None]
    opened = FrameReader().open(Bitmap(width, height, rows.tobytes()))
    assert opened.frame.pixels.shape == (height, width, 3)
    assert (opened.frame.pixels == np.arange(height, dtype=np.uint8)[:, None, None]).all()
    slot = np.zeros((64, 64, 3), np.uint8)
    write_input(opened.frame, spec(height=64, width=64), slot)
    expected = cv2.resize(
        np.ascontiguousarray(opened.frame.pixels), (64, 64), interpolation=cv2.INTER_AREA
    )
    assert (slot == expected).all()


def test_a_strict_model_refuses_other_sizes_with_both_sizes_named() -> None:
    with pytest.raises(InvalidFrame, match="90x120 pixels; this model takes 48x64"):
        check_size(90, 120, spec(strict_size=True))
    check_size(90, 120, spec())
    check_size(48, 64, spec(strict_size=True))


@pytest.mark.parametrize("size", [(480, 640), (300, 200), (97, 131), (1080, 1920), (64, 700)])
def test_the_pyramid_keeps_means_and_swallows_what_a_bilinear_resize_would_alias(
    size: Tuple[int, int],
) -> None:
    own = spec(resize="pyramid")
    slot = np.zeros((64, 48, 3), np.uint8)
    gradient = np.linspace(10, 240, size[1]).astype(np.uint8)
    write_input(Frame(np.broadcast_to(gradient[None, :, None], (*size, 3)).copy()), own, slot)
    expected = cv2.resize(gradient[None, :], (48, 1), interpolation=cv2.INTER_AREA)
    assert np.abs(slot[:, 1:-1, 0].astype(int) - expected[:, 1:-1]).max() <= 3
    stripes = np.zeros((256, 256, 3), np.uint8)
    stripes[:, ::2] = 255  # one pixel wide: any resize that skips pixels shows a pattern
    fine = np.zeros((64, 64, 3), np.uint8)
    write_input(Frame(stripes), spec(height=64, width=64, resize="pyramid"), fine)
    assert np.abs(fine.astype(int) - 127).max() <= 1


def test_the_pyramid_is_exact_at_powers_of_two() -> None:
    image = np.random.default_rng(5).integers(0, 256, (256, 192, 3)).astype(np.uint8)
    slot = np.zeros((64, 48, 3), np.uint8)
    write_input(Frame(image), spec(resize="pyramid"), slot)
    means = image.reshape(64, 4, 48, 4, 3).mean(axis=(1, 3))
    assert np.abs(slot - means).max() <= 1.5  # rounded twice
