"""The work on a frame inside a peer's process: our own preprocess, engine and postprocess.

Only what surrounds this call is the peer's: transport, queues, batching, processes.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, List, Sequence

import numpy as np

from edge_agent.runtime.backends.base import BackendOptions
from edge_agent.runtime.backends.catalog import open_backend
from edge_agent.runtime.packages.package import Package
from edge_agent.runtime.vision import preprocess
from edge_agent.runtime.vision.postprocess import Postprocessor
from edge_agent.types import Frame, Prediction

if TYPE_CHECKING:
    from numpy.typing import NDArray


MODEL = "peer"  # its name on every server


class BatchPredictor:
    """One engine of `threads` threads on a package; used by one thread at a time."""

    def __init__(self, package: Path, threads: int) -> None:
        preprocess.use_one_thread()
        opened = Package(package)
        self._spec = opened.manifest.input
        self._backend = open_backend(
            ("onnxruntime",), opened.read_model(), opened.manifest, BackendOptions(threads)
        )
        self._postprocessor = Postprocessor(opened.manifest)
        self._slots = np.zeros(
            (self._backend.max_batch, *preprocess.item_shape(self._spec)), self._spec.dtype
        )
        for count in {1, self._backend.max_batch}:
            self._backend.run(self._slots[:count])

    def predict(self, frames: Sequence[NDArray[np.uint8]]) -> List[Prediction]:
        """Return a verdict with a mask of its own for each frame, uint8 RGB (height, width, 3)."""
        most = self._backend.max_batch
        return [
            prediction
            for start in range(0, len(frames), most)
            for prediction in self._predict_batch(frames[start : start + most])
        ]

    def _predict_batch(self, frames: Sequence[NDArray[np.uint8]]) -> List[Prediction]:
        for slot, frame in zip(self._slots, frames):
            preprocess.write_input(Frame(frame), self._spec, slot)
        outputs = self._backend.run(self._slots[: len(frames)])
        return [
            self._postprocessor.predict(outputs, index, frame.shape[1], frame.shape[0])
            for index, frame in enumerate(frames)
        ]
