"""One inference unit: a backend, its input buffer, and the steps from frames to predictions."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Dict, List

import numpy as np

from edge_agent.errors import EdgeAgentError, InferenceFailed
from edge_agent.manifest import Manifest
from edge_agent.runtime.backends.base import Backend
from edge_agent.runtime.batching.batch import Item
from edge_agent.runtime.vision.frame import OpenFrame
from edge_agent.runtime.vision.postprocess import Postprocessor
from edge_agent.runtime.vision.preprocess import item_shape, write_input

if TYPE_CHECKING:
    from numpy.typing import NDArray

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Work:
    """What an item of this room carries."""

    opened: OpenFrame


class InferenceUnit:
    """Computes batches of `Work`; used by one thread at a time."""

    def __init__(self, backend: Backend, manifest: Manifest) -> None:
        self.max_batch = backend.max_batch
        self._backend = backend
        self._spec = manifest.input
        self._postprocessor = Postprocessor(manifest)
        self._slots: NDArray[Any] = np.zeros(
            (self.max_batch, *item_shape(self._spec)), self._spec.dtype
        )

    def warm_up(self) -> None:
        """Run every batch size the engine may meet once on zeros. Raises InferenceFailed."""
        for count in {1, self.max_batch}:
            self._backend.run(self._slots[:count])

    def compute(self, batch: List[Item]) -> None:
        """Resolve every item's future with a Prediction or an error of its own."""
        placed: List[Item] = []
        for item in batch:
            if self._guarded(item, partial(self._place, item, len(placed))):
                placed.append(item)
        if not placed:
            return
        try:
            outputs = self._backend.run(self._slots[: len(placed)])
        except EdgeAgentError as error:
            for item in placed:
                item.future.set_exception(error)
            return
        for index, item in enumerate(placed):
            self._guarded(item, partial(self._finish, item, outputs, index))

    def close(self) -> None:
        """Free the engine."""
        self._backend.close()

    def _place(self, item: Item, slot: int) -> None:
        write_input(item.work.opened.frame, self._spec, self._slots[slot])

    def _finish(self, item: Item, outputs: Dict[str, NDArray[Any]], index: int) -> None:
        opened: OpenFrame = item.work.opened
        frame = opened.frame
        item.future.set_result(
            self._postprocessor.predict(
                outputs, index, frame.width, frame.height, opened.mask_target
            )
        )

    def _guarded(self, item: Item, step: Any) -> bool:
        """Run a step for one item; its failure is that item's alone."""
        try:
            step()
        except EdgeAgentError as error:
            item.future.set_exception(error)
        except Exception as error:
            log.exception("A frame could not be computed.")
            item.future.set_exception(InferenceFailed(f"{type(error).__name__}; see the log."))
        else:
            return True
        return False
