"""The raw baseline: the same preprocess, engine and postprocess, called in this process."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

from edge_agent.runtime.backends.base import BackendOptions
from edge_agent.runtime.backends.catalog import open_backend
from edge_agent.runtime.batching.batch import Item
from edge_agent.runtime.instance import InferenceUnit
from edge_agent.runtime.package import Package
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
        item = Item(OpenFrame(Frame(image), mask_target=mask), time.monotonic(), Caller())
        self._unit.compute([item])
        prediction: Prediction = item.future.result()
        return prediction


def copy_seconds(image: NDArray[np.uint8], rounds: int) -> float:
    """Return the median time of one plain copy of `image`."""
    target = np.empty_like(image)
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        np.copyto(target, image)
        times.append(time.perf_counter() - began)
    return sorted(times)[rounds // 2]
