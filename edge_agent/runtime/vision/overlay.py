"""The picture people look at: a frame with its verdict, marked areas and boxes drawn over it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Tuple

import cv2
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edge_agent.types import Prediction, Region

    Pixels = NDArray[np.uint8]
    Color = Tuple[int, int, int]

BLEND = 0.45  # share of the mask's colour inside a marked area
ANOMALOUS, NORMAL = (220, 38, 38), (22, 163, 74)  # RGB
BAR, TEXT = (24, 27, 31), (245, 246, 248)
FONT = cv2.FONT_HERSHEY_SIMPLEX
LINE_AT_PX = 480  # lines get a pixel thicker every so many pixels of the frame's height


def draw(image: Pixels, prediction: Prediction) -> Pixels:
    """Return a copy of `image`, uint8 RGB (height, width, 3), marked and with a caption on top.

    The caption covers the first `caption_height(image)` rows.
    """
    picture = highlight(image, prediction)
    _caption(picture, prediction)
    return picture


def highlight(image: Pixels, prediction: Prediction) -> Pixels:
    """Return a copy of `image` with the mask blended in and a box round every region.

    White of the mask (uint8 RGB, shape of `image`) is background and stays untouched.
    """
    picture = image.copy()
    if prediction.mask is not None:
        _blend(picture, prediction.mask)
    for region in prediction.regions:
        _box(picture, region)
    return picture


def caption_height(image: Pixels) -> int:
    """Rows of `image` that the caption of `draw` covers."""
    return int(min(image.shape[0], max(14, round(image.shape[0] / 16))))


def _blend(picture: Pixels, mask: Pixels) -> None:
    marked = (mask != 255).any(axis=2)
    if not marked.any():
        return
    kernel = np.ones((2 * _line(picture) + 1,) * 2, np.uint8)
    contour = marked & cv2.morphologyEx(mask, cv2.MORPH_GRADIENT, kernel).any(axis=2)
    mixed = picture[marked] * (1.0 - BLEND) + mask[marked] * BLEND
    picture[marked] = mixed.astype(np.uint8)
    picture[contour] = mask[contour]


def _box(picture: Pixels, region: Region) -> None:
    margin = 3 * _line(picture)
    start = (region.left - margin, region.top - margin)
    end = (region.left + region.width + margin, region.top + region.height + margin)
    cv2.rectangle(picture, start, end, ANOMALOUS, _line(picture), cv2.LINE_AA)


def _caption(picture: Pixels, prediction: Prediction) -> None:
    height = caption_height(picture)
    verdict, color = ("ANOMALY", ANOMALOUS) if prediction.is_anomalous else ("NORMAL", NORMAL)
    facts = (
        f"score {prediction.score:.3f} / threshold {prediction.threshold:.3f}"
        f"   confidence {prediction.confidence:.3f}"
    )
    picture[:height] = BAR
    tag_width = _write(picture, verdict, 0, color)
    _write(picture, facts, tag_width, None)


def _write(picture: Pixels, text: str, left: int, background: Color | None) -> int:
    """Write into the caption from `left` on, shrunk to what is left; returns where it ends."""
    height = caption_height(picture)
    room = picture.shape[1] - left if background is None else picture.shape[1] // 3
    (width, tall), _ = cv2.getTextSize(text, FONT, 1.0, 1)
    scale = max(min(0.42 * height / tall, (room - height) / width), 0.01)
    end = left + int(width * scale + height)
    if background is not None:
        picture[:height, left:end] = background
    baseline = int((height + tall * scale) / 2)
    origin = (left + height // 2, baseline)
    cv2.putText(picture, text, origin, FONT, scale, TEXT, _line(picture), cv2.LINE_AA)
    return end


def _line(picture: Pixels) -> int:
    return 1 + int(picture.shape[0]) // LINE_AT_PX
