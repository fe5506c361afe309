"""Who makes the model's input of a large frame: the CPU, or the device from the whole frame."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any, Callable, Optional, Tuple

import numpy as np

from edge_agent.errors import InferenceFailed
from edge_agent.manifest import InputSpec
from edge_agent.runtime.backends.base import Backend
from edge_agent.runtime.vision.preprocess import write_input
from edge_agent.types import Frame

if TYPE_CHECKING:
    from numpy.typing import NDArray

log = logging.getLogger(__name__)

SIZES = ((1920, 1080), (1280, 720), (640, 480))
REPEATS = 5
TOLERANCE = 1  # of 255: what OpenCV differs by itself between processors


class Placement:
    """Decided by the first unit of a model, for all: equal pictures must stay equal.

    A picture that the device resizes may differ in some last bits from what the CPU makes of it,
    and would never be found frozen when both took turns. `clock` tells seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._is_decided = False
        self._least: Optional[Tuple[int, int]] = None

    def __str__(self) -> str:
        """Go on from what computes where, for people: ", frames from 1280x720 on resized there"."""
        if self._least is None:
            return ""
        return ", frames from {}x{} on resized there".format(*self._least)

    def takes(self, frame: Frame) -> bool:
        """Tell whether the device shall resize a frame."""
        if self._least is None:
            return False
        width, height = self._least
        return frame.width * frame.height >= width * height

    def decide(self, backend: Backend, spec: InputSpec, slots: NDArray[Any]) -> None:
        """Measure both ways, from large frames to small; `slots` is the backend's memory."""
        if self._is_decided:
            return
        self._is_decided = True
        try:
            self._least = self._smallest(backend, spec, slots)
        except InferenceFailed as error:
            log.warning("Frames are resized on the CPU, not on %s: %s", backend.device, error)

    def _smallest(
        self, backend: Backend, spec: InputSpec, slots: NDArray[Any]
    ) -> Optional[Tuple[int, int]]:
        smallest = None
        for width, height in SIZES:
            noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
            if not self._is_faster(backend, spec, slots, Frame(noise)):
                break
            smallest = (width, height)
        return smallest

    def _is_faster(
        self, backend: Backend, spec: InputSpec, slots: NDArray[Any], frame: Frame
    ) -> bool:
        def on_cpu() -> None:
            write_input(frame, spec, slots[0])
            backend.try_out(slots[:1])

        def on_device() -> bool:
            is_taken = backend.place(0, frame.pixels)
            if is_taken:
                backend.try_out(slots[:1])
            return is_taken

        if not on_device():
            return False
        wanted = write_input(frame, spec, np.empty_like(slots[0])).astype(np.int16)
        apart = int(np.abs(read_input(slots[0], spec) - wanted).max())
        if apart > TOLERANCE:
            raise InferenceFailed(f"What becomes of them there is wrong by up to {apart} of 255.")
        cpu_ms, device_ms = self._best_ms(on_cpu), self._best_ms(on_device)
        log.info(
            "A frame of %dx%d takes %.2f ms where the CPU resizes it, %.2f ms where %s does.",
            frame.width, frame.height, cpu_ms, device_ms, backend.device,
        )  # fmt: skip
        return device_ms < cpu_ms

    def _best_ms(self, work: Callable[[], object]) -> float:
        times = []
        for _ in range(REPEATS):
            began = self._clock()
            work()
            times.append(self._clock() - began)
        return 1000 * min(times)


def read_input(slot: NDArray[Any], spec: InputSpec) -> NDArray[np.uint8]:
    """Return the pixels that were laid out in `slot` as `write_input` does it.

    uint8 RGB of shape (H, W, 3), C-contiguous: `slot` itself where that is what it holds.
    """
    pixels = slot if spec.layout == "NHWC" else slot.transpose(1, 2, 0)
    if spec.dtype == "float32":
        mean, std = np.asarray(spec.mean, np.float32), np.asarray(spec.std, np.float32)
        values = (pixels + mean / std) * (std / np.float32(spec.scale))
        pixels = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return np.ascontiguousarray(pixels)
