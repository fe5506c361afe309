"""One inference unit: a backend, its input buffer, and the steps from frames to predictions."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Dict, List, Optional, Sequence, Tuple

from edge_agent.errors import EdgeAgentError, InferenceFailed
from edge_agent.manifest import Manifest
from edge_agent.runtime.backends.base import Backend
from edge_agent.runtime.batching.batch import Item
from edge_agent.runtime.vision.frame import OpenFrame
from edge_agent.runtime.vision.input_check import InputCheck
from edge_agent.runtime.vision.light import measure
from edge_agent.runtime.vision.postprocess import Postprocessor
from edge_agent.runtime.vision.preprocess import write_input
from edge_agent.types import CameraProblem, Prediction

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

log = logging.getLogger(__name__)


FrameItem = Item[OpenFrame, Prediction]
Problems = Tuple[CameraProblem, ...]


class DecisionInForce:
    """How all units of a model judge; a new decision holds from the next batch on."""

    def __init__(self, manifest: Manifest, golden: Sequence[NDArray[np.uint8]] = ()) -> None:
        """`golden`: the pictures of its golden samples, uint8 RGB of the model's input size."""
        self.input_check = InputCheck(manifest.statistics, [measure(each) for each in golden])
        self.apply(manifest)

    def apply(self, manifest: Manifest) -> None:
        """Judge by this manifest's decision. May be called while units compute."""
        self.postprocessor = Postprocessor(manifest)


class InferenceUnit:
    """Computes batches of items whose work is an `OpenFrame`; used by one thread at a time."""

    def __init__(
        self, backend: Backend, manifest: Manifest, in_force: Optional[DecisionInForce] = None
    ) -> None:
        self.max_batch = backend.max_batch
        self.can_interrupt = backend.can_interrupt
        self._backend = backend
        self._spec = manifest.input
        self._in_force = in_force or DecisionInForce(manifest)
        self._slots = backend.slots()

    @property
    def engine(self) -> str:
        """What computes and where, for people."""
        return f"{self._backend.name} on {self._backend.device}"

    def warm_up(self) -> None:
        """Take the smallest and the largest batch all the way, on black frames.

        Raises InferenceFailed when the outputs are not what the manifest says.
        """
        for count in {1, self.max_batch}:
            outputs = self._backend.try_out(self._slots[:count])
            self._in_force.postprocessor.predict(outputs, 0, self._spec.width, self._spec.height)

    def compute(self, batch: List[FrameItem]) -> None:
        """Resolve every item with a Prediction or an error of its own."""
        placed: List[Tuple[FrameItem, Problems]] = []
        began = time.monotonic()
        for item in batch:
            try:
                problems = self._preprocess(item, len(placed))
            except Exception as error:
                item.fail(_fault(error))
            else:
                placed.append((item, problems))
            now = time.monotonic()
            item.times.preprocess, began = now - began, now
        if not placed:
            return
        try:
            outputs = self._backend.run(self._slots[: len(placed)])
        except Exception as error:
            fault = _fault(error)
            for item, _ in placed:
                item.fail(fault)
            return
        compute_s = time.monotonic() - began
        postprocessor = self._in_force.postprocessor  # one for the whole batch
        for index, (item, problems) in enumerate(placed):
            item.times.compute = compute_s
            self._judge(item, problems, outputs, index, postprocessor)

    def interrupt(self) -> None:
        """Make `compute` on another thread fail soon; the unit can't be used afterwards."""
        self._backend.interrupt()

    def close(self) -> None:
        """Free the engine."""
        self._backend.close()

    def _preprocess(self, item: FrameItem, index: int) -> Problems:
        """Write a frame into its place in the batch; return what is wrong with the picture."""
        pixels = write_input(item.work.frame, self._spec, self._slots[index])
        return self._in_force.input_check.judge(measure(pixels), item.caller.name)

    def _judge(
        self,
        item: FrameItem,
        problems: Problems,
        outputs: Dict[str, NDArray[Any]],
        index: int,
        postprocessor: Postprocessor,
    ) -> None:
        began = time.monotonic()
        opened, frame = item.work, item.work.frame
        try:
            if item.future.done():  # given up meanwhile: its caller's memory is no longer ours
                return
            prediction = postprocessor.predict(
                outputs, index, frame.width, frame.height, opened.mask_target
            )
        except Exception as error:
            item.fail(_fault(error))
            return
        if problems:
            prediction = replace(prediction, camera_problems=problems)
        item.times.postprocess = time.monotonic() - began
        item.resolve(prediction)


def _fault(error: Exception) -> EdgeAgentError:
    """Return the error a caller gets; an unexpected one is a fault, and logged."""
    if isinstance(error, EdgeAgentError):
        return error
    log.error("A frame could not be computed.", exc_info=error)
    return InferenceFailed(f"The frame could not be computed ({type(error).__name__}).")
