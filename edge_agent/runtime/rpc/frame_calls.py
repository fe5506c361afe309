"""A frame from message to message, the same for single calls and for streams."""

from __future__ import annotations

import time
from functools import partial
from typing import Any, Callable, Optional, Tuple

from edge_agent.errors import EdgeAgentError, InvalidFrame, ModelNotFound
from edge_agent.runtime.detector import Detector
from edge_agent.runtime.metrics import Metrics
from edge_agent.runtime.rpc import metadata
from edge_agent.runtime.rpc.admission import HOLD_WITHIN_S, MESSAGE_LIMIT_BYTES
from edge_agent.runtime.rpc.memory_budget import Lease
from edge_agent.types import Caller, DetectRequest, Prediction, SharedMemoryHandle, Wanted

Respond = Callable[[Prediction, Optional[SharedMemoryHandle]], Any]


class FrameCalls:
    """Converts, asks the detector, converts, and counts."""

    def __init__(self, detector: Detector, metrics: Metrics) -> None:
        self._detector = detector
        self._metrics = metrics

    def judge(
        self, wanted: Wanted, caller: Caller, receive_s: float, lease: Lease, respond: Respond
    ) -> Tuple[Any, metadata.Metadata, Callable[[], None]]:
        """Return the answer, what goes beside it, and what counts it once it is on its way.

        `receive_s` is how long the message took to come; `lease` takes in the mask, where it goes
        into the answer. Raises as Detector.detect, and CallsTakeTooMuch.
        """
        call = DetectRequest(*wanted, caller)
        call.times.receive = receive_s
        try:
            if wanted.mask is None and wanted.bitmap is not None:
                mask_bytes = wanted.bitmap.width * wanted.bitmap.height * 3
                lease.add(min(mask_bytes, MESSAGE_LIMIT_BYTES), HOLD_WITHIN_S)
            prediction = self._detector.detect(call)
        except EdgeAgentError as error:
            model = "" if isinstance(error, ModelNotFound) else call.model
            self._metrics.failed(model, error.status, isinstance(error, InvalidFrame))
            raise
        began = time.monotonic()
        answer = respond(prediction, call.mask)
        call.times.send = time.monotonic() - began
        # It is kept until the answer has left, so it must hold neither the frame nor the mask.
        verdict = prediction.is_anomalous, prediction.camera_problems
        count = partial(self._metrics.succeeded, call.model, *verdict, call.times)
        return answer, metadata.beside(prediction, call.times), count
