"""The raw baseline: the same preprocess, engine and postprocess, in one process without a server.

A job of `jobs`: its process opens the units as the agent does, and all are busy in a turn.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, Tuple

import numpy as np

from edge_agent.benchmark.loops import Answer, ClosedPace, Tally, drive
from edge_agent.client.segment import FrameSegment
from edge_agent.runtime.backends.base import BackendOptions
from edge_agent.runtime.backends.catalog import open_backend
from edge_agent.runtime.models.inference_unit import FrameItem, InferenceUnit
from edge_agent.runtime.packages.package import Package
from edge_agent.runtime.vision import preprocess
from edge_agent.runtime.vision.frame import OpenFrame
from edge_agent.types import Caller, Frame, Prediction

if TYPE_CHECKING:
    from numpy.typing import NDArray


class RawEngine:
    """One inference unit of `threads` threads on a package, without any server."""

    def __init__(self, package: Package, threads: int) -> None:
        manifest = package.manifest
        backend = open_backend(
            ("onnxruntime",), package.read_model(), manifest, BackendOptions(threads)
        )
        self._unit = InferenceUnit(backend, manifest)
        self._unit.warm_up()

    def detect(self, image: NDArray[np.uint8], mask: NDArray[np.uint8]) -> Prediction:
        """Judge `image`, writing the mask into `mask`; both uint8 (height, width, 3)."""
        item = FrameItem(OpenFrame(Frame(image), mask_target=mask), time.monotonic(), Caller())
        self._unit.compute([item])
        prediction: Prediction = item.future.result()
        return prediction


class RawJob:
    """`units` raw engines, each with a frame and a mask in shared memory and a thread."""

    def __init__(self, package: str, units: int, threads: int, frame: str) -> None:
        preprocess.use_one_thread()
        self._engines = [RawEngine(Package(Path(package)), threads) for _ in range(units)]
        self._image: NDArray[np.uint8] = np.load(frame)

    def __enter__(self) -> RawJob:
        with ExitStack() as stack:
            self._places = [place(stack, self._image) for _ in self._engines]
            self._pool = stack.enter_context(ThreadPoolExecutor(len(self._engines)))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: Any) -> None:
        self._stack.close()

    def turn(self, begin_s: float, end_s: float) -> Dict[str, Any]:
        """Keep every engine busy from `begin_s` to `end_s` (monotonic); return a Tally's fields."""
        tally = Tally()
        used_s = time.process_time()
        for part in self._pool.map(
            lambda unit: self._drive(unit, begin_s, end_s), range(len(self._engines))
        ):
            tally.merge(part)
        tally.cpu_s = time.process_time() - used_s
        return vars(tally)

    def _drive(self, unit: int, begin_s: float, end_s: float) -> Tally:
        def call() -> Answer:
            self._engines[unit].detect(*self._places[unit])
            return Answer()

        pace = ClosedPace(begin_s, end_s, time.monotonic)
        return drive(pace, end_s, call, time.monotonic, time.sleep)


def place(
    stack: ExitStack, image: NDArray[np.uint8]
) -> Tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return `image` and room for its mask, both in a segment of shared memory that `stack` frees.

    All uint8 (height, width, 3).
    """
    height, width = image.shape[:2]
    segment = FrameSegment(image.nbytes)
    stack.callback(segment.close)
    np.copyto(segment.frame(width, height), image)
    return segment.frame(width, height), segment.mask(width, height)
