"""A frame → the model's input, written straight into its place in the batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from edge_agent.errors import InvalidFrame
from edge_agent.manifest import InputSpec
from edge_agent.types import Frame

if TYPE_CHECKING:
    from numpy.typing import NDArray

_INTERPOLATION = {
    "pyramid": cv2.INTER_LINEAR,
    "area": cv2.INTER_AREA,
    "bilinear": cv2.INTER_LINEAR,
}


def use_one_thread() -> None:
    """Keep OpenCV from starting threads of its own, in the whole process."""
    cv2.setNumThreads(1)


def item_shape(spec: InputSpec) -> tuple[int, int, int]:
    """Return the shape of one frame in the batch: (H, W, 3) for NHWC, (3, H, W) for NCHW."""
    if spec.layout == "NHWC":
        return (spec.height, spec.width, 3)
    return (3, spec.height, spec.width)


def check_size(width: int, height: int, spec: InputSpec) -> None:
    """Raise InvalidFrame when the model is strict about its size and the frame has another."""
    if spec.strict_size and (width, height) != (spec.width, spec.height):
        raise InvalidFrame(
            f"The bitmap is {width}x{height} pixels; "
            f"this model takes {spec.width}x{spec.height} only."
        )


def write_input(frame: Frame, spec: InputSpec, slot: NDArray[Any]) -> NDArray[np.uint8]:
    """Resize `frame` to the model's size and lay it out in `slot`.

    slot: C-contiguous, shape `item_shape(spec)`, dtype of the spec. uint8 gets the pixels as they
    are; float32 gets (pixel * scale - mean) / std per channel. Returns the resized pixels, uint8
    RGB of shape (H, W, 3): `slot` itself where that is what it holds.
    """
    if spec.dtype == "uint8" and spec.layout == "NHWC":
        _resize(frame.pixels, spec, slot)
        return slot
    pixels = np.empty((spec.height, spec.width, 3), np.uint8)
    _resize(frame.pixels, spec, pixels)
    target = slot if spec.layout == "NHWC" else slot.transpose(1, 2, 0)
    if spec.dtype == "uint8":
        np.copyto(target, pixels)
        return pixels
    mean, std = np.asarray(spec.mean, np.float32), np.asarray(spec.std, np.float32)
    np.multiply(pixels, np.float32(spec.scale) / std, out=target)
    np.subtract(target, mean / std, out=target)
    return pixels


def _resize(pixels: NDArray[np.uint8], spec: InputSpec, target: NDArray[np.uint8]) -> None:
    if pixels.shape == target.shape:
        np.copyto(target, pixels)
        return
    size = (spec.width, spec.height)
    if spec.resize == "pyramid":
        pixels = _halve(pixels, *size)
    cv2.resize(pixels, size, dst=target, interpolation=_INTERPOLATION[spec.resize])


def _halve(pixels: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    """Average pairs of columns and rows while there are more than twice as many as asked for.

    What is left for a bilinear step is a factor of at most 2, which it takes without aliasing. Five
    to ten times as fast as OpenCV's area resize at a general factor, with the same purpose.
    """
    while True:
        rows, columns = pixels.shape[:2]
        half_columns = columns // 2 if columns > 2 * width else columns
        half_rows = rows // 2 if rows > 2 * height else rows
        if (half_columns, half_rows) == (columns, rows):
            return pixels
        smaller = cv2.resize(pixels, (half_columns, half_rows), interpolation=cv2.INTER_AREA)
        pixels = np.asarray(smaller, np.uint8)
