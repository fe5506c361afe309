"""MLServer's side: a custom inference runtime. Imported only in MLServer's own processes.

The work runs in a thread beside the event loop: it releases the interpreter lock, and the frames of
the next batch come in meanwhile. MLServer's parallel workers get each frame through a pipe; with
one or two of them it answered fewer frames a second, which is why settings.json has none.

Frames and masks are BYTES tensors, one element each: a raw UINT8 tensor would be unpacked into a
list of Python integers, six million for a frame of 1920x1080; an element is passed on as it is.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
from mlserver import MLModel
from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput

from scripts.peers.predictor import BatchPredictor


class InspectionRuntime(MLModel):  # type: ignore[misc]
    """Inspects batches of frames of one size each."""

    async def load(self) -> bool:
        """Open the package at the settings' uri."""
        parameters = self.settings.parameters
        self._predictor = BatchPredictor(Path(parameters.uri), parameters.extra["threads"])
        self._one_batch = asyncio.Lock()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Inspect the batch that adaptive batching made of several requests."""
        inputs = {entry.name: entry.data.root for entry in payload.inputs}
        sizes = np.array(inputs["size"], np.int32).reshape(-1, 2)
        frames = [
            np.frombuffer(pixels, np.uint8).reshape(height, width, 3)
            for pixels, (width, height) in zip(inputs["frame"], sizes)
        ]
        async with self._one_batch:
            found = await asyncio.to_thread(self._predictor.predict, frames)
        outputs = [
            _output("score", "FP32", [one.score for one in found]),
            _output("anomalous", "BOOL", [one.is_anomalous for one in found]),
            _output("mask", "BYTES", [_mask_bytes(one) for one in found]),
        ]
        return InferenceResponse(model_name=self.name, outputs=outputs)


def _output(name: str, datatype: str, values: Any) -> ResponseOutput:
    return ResponseOutput(name=name, datatype=datatype, shape=[len(values)], data=values)


def _mask_bytes(prediction: Any) -> bytes:
    return b"" if prediction.mask is None else bytes(prediction.mask)
