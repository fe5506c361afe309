"""The life of a frame, on one page.

A frame comes as bytes or as a name of shared memory, is checked and viewed without a copy, waits
for an inference unit of its model, is resized into that unit's batch, computed and judged. The
rooms below do the work; this façade says in which order.
"""

from __future__ import annotations

import asyncio
from typing import List

from edge_agent.errors import InvalidFrame
from edge_agent.runtime.registry import Registry
from edge_agent.runtime.vision.frame import FrameReader
from edge_agent.runtime.vision.preprocess import check_size
from edge_agent.types import DetectRequest, ModelInfo, Prediction


class Detector:
    """What the agent does, without a wire. All methods run on the event loop."""

    def __init__(self, registry: Registry, frames: FrameReader) -> None:
        self._registry = registry
        self._frames = frames

    async def detect(self, request: DetectRequest) -> Prediction:
        """Judge one frame.

        Raises, in this order: InvalidRequest (no name), ModelNotFound, WrongModelState,
        InvalidFrame, Overloaded; then DeadlineExceeded, InferenceFailed.
        """
        model = self._registry.find(request.model)
        manifest = model.manifest()
        if request.bitmap is None:
            raise InvalidFrame("The request has no bitmap.")
        mask = request.mask if manifest.task != "classification" else None
        opened = self._frames.open(request.bitmap, mask)
        check_size(opened.frame.width, opened.frame.height, manifest.input)
        prediction = await asyncio.wrap_future(model.submit(opened, request.deadline))
        opened.check()
        return prediction

    def start(self, name: str) -> ModelInfo:
        """Begin to start a model. Raises ModelNotFound, WrongModelState, OutOfMemory."""
        model = self._registry.find(name)
        model.start()
        return model.info()

    async def stop(self, name: str) -> ModelInfo:
        """Stop a model and return when it is freed. Raises ModelNotFound, WrongModelState."""
        model = self._registry.find(name)
        await model.stop()
        return model.info()

    def describe(self, name: str) -> ModelInfo:
        """Tell the state of a model. Raises ModelNotFound."""
        return self._registry.find(name).info()

    def list(self) -> List[ModelInfo]:
        """Tell the state of every model, by name."""
        return self._registry.list()
