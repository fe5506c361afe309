"""The life of a frame, on one page.

A frame comes as bytes or as a name of shared memory, is checked and viewed without a copy, waits
for an inference unit of its model, is resized into that unit's batch, computed and judged; its
verdict is offered to the results room. The rooms below do the work; this façade says in which
order.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Callable, List, Optional

from edge_agent.errors import InvalidFrame
from edge_agent.manifest import Manifest
from edge_agent.runtime.batching.batcher import Retired
from edge_agent.runtime.models.loaded_model import LoadedModel
from edge_agent.runtime.models.registry import Registry
from edge_agent.runtime.vision.camera_problem_rule import CameraProblemRule
from edge_agent.runtime.vision.frame import FrameReader, OpenFrame
from edge_agent.runtime.vision.grey_band_rule import GreyBandRule
from edge_agent.runtime.vision.preprocess import check_size
from edge_agent.types import DetectRequest, ModelInfo, Prediction

Observe = Callable[[DetectRequest, OpenFrame, Prediction, Manifest], str]


def unobserved(_: DetectRequest, __: OpenFrame, ___: Prediction, ____: Manifest) -> str:
    """Publish nothing."""
    return ""


class Detector:
    """What the agent does, without a wire. Its methods may be called on any thread.

    `observe` is offered every verdict while the frame is still in memory; it returns the id of the
    event it makes of it, never waits and never raises. `on_problem` says what is answered about
    pictures with a camera problem, `on_unsure` in the grey band; None: what the model says.
    """

    def __init__(
        self,
        registry: Registry,
        frames: FrameReader,
        observe: Observe = unobserved,
        on_problem: Optional[CameraProblemRule] = None,
        on_unsure: Optional[GreyBandRule] = None,
    ) -> None:
        self._registry = registry
        self._frames = frames
        self._observe = observe
        self._on_problem = on_problem
        self._on_unsure = on_unsure

    def detect(self, request: DetectRequest) -> Prediction:
        """Judge one frame and return when that is done.

        Raises, in this order: InvalidRequest (no name), ModelNotFound, WrongModelState,
        InvalidFrame, OutOfDescriptors, OutOfMemory, Overloaded; then DeadlineExceeded,
        InferenceFailed, FaultyPicture; CancelledError when the caller went.
        """
        model = self._registry.find(request.model)
        while True:
            try:
                return self._predict(model.serving(), request)
            except Retired:
                continue  # a newer version has replaced it in between

    def start(self, name: str) -> ModelInfo:
        """Begin to start a model. Raises ModelNotFound, WrongModelState, OutOfMemory."""
        return self._registry.find(name).start()

    def stop(self, name: str) -> ModelInfo:
        """Stop a model and return when it is freed. Raises ModelNotFound, WrongModelState."""
        return self._registry.find(name).stop()

    def set_threshold(self, name: str, threshold: float, by: str) -> ModelInfo:
        """Judge by `threshold`, 0 to 1, from the next batch on; `by` says who sets it.

        Raises InvalidRequest, ModelNotFound, WrongModelState, AgentUnavailable.
        """
        return self._registry.set_threshold(name, threshold, by)

    def describe(self, name: str) -> ModelInfo:
        """Return the state of a model. Raises ModelNotFound."""
        return self._registry.find(name).info()

    def list(self) -> List[ModelInfo]:
        """Return the state of every model, by name."""
        return self._registry.list()

    def _predict(self, loaded: LoadedModel, request: DetectRequest) -> Prediction:
        bitmap = request.bitmap
        if bitmap is None:
            raise InvalidFrame("The request has no bitmap.")
        mask = request.mask if loaded.manifest.task != "classification" else None
        opened = self._frames.open(bitmap, mask, request.caller.is_local)
        check_size(bitmap.width, bitmap.height, loaded.manifest.input)
        prediction = loaded.predict(opened, request)
        if prediction.is_unsure and self._on_unsure is not None:
            prediction = self._on_unsure.apply(prediction, loaded.manifest.decision)
        if prediction.camera_problems and self._on_problem is not None:
            prediction = self._on_problem.apply(prediction, opened.mask_target)
        opened.check()
        began = time.monotonic()
        result_id = self._observe(request, opened, prediction, loaded.manifest)
        request.times.publish = time.monotonic() - began
        return replace(prediction, result_id=result_id) if result_id else prediction
