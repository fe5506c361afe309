"""A frame from message to message, the same for single calls and for streams."""

from __future__ import annotations

import logging
import time
from functools import partial
from typing import Callable, Optional, Tuple, TypeVar

from edge_agent.errors import EdgeAgentError, InvalidFrame, ModelNotFound
from edge_agent.protocol import MESSAGE_LIMIT_BYTES
from edge_agent.runtime.detector import Detector
from edge_agent.runtime.metrics import Metrics
from edge_agent.runtime.rpc import metadata
from edge_agent.runtime.rpc.admission import HOLD_WITHIN_S
from edge_agent.runtime.rpc.call_context import Metadata
from edge_agent.runtime.rpc.memory_budget import Lease
from edge_agent.types import Caller, DetectRequest, FrameRequest, Prediction, SharedMemoryHandle

log = logging.getLogger(__name__)

R = TypeVar("R")  # the answer: a message, or one serialised
Respond = Callable[[Prediction, Optional[SharedMemoryHandle]], R]


class FrameCalls:
    """Converts, asks the detector, converts, and counts."""

    def __init__(self, detector: Detector, metrics: Metrics) -> None:
        self._detector = detector
        self._metrics = metrics

    def judge(
        self,
        request: FrameRequest,
        caller: Caller,
        receive_s: float,
        lease: Lease,
        respond: Respond[R],
    ) -> Tuple[R, Metadata, Callable[[], None]]:
        """Return the answer, its trailing metadata, and what counts it once it is on its way.

        `receive_s` is how long the message took to come; `lease` accounts for a mask in the answer.
        Raises as Detector.detect, and CallsTakeTooMuch.
        """
        call = DetectRequest(*request, caller)
        call.times.receive = receive_s
        try:
            if request.mask is None and request.bitmap is not None:
                mask_bytes = request.bitmap.width * request.bitmap.height * 3
                lease.add(min(mask_bytes, MESSAGE_LIMIT_BYTES), HOLD_WITHIN_S)
            prediction = self._detector.detect(call)
        except EdgeAgentError as error:
            model = "" if isinstance(error, ModelNotFound) else call.model
            self._metrics.failed(model, error.status, isinstance(error, InvalidFrame))
            log.debug("%s: refused with %s: %s", _who(call), error.status, error)
            raise
        if log.isEnabledFor(logging.DEBUG):
            log.debug("%s: %s", _who(call), _decision(prediction, call))
        began = time.monotonic()
        answer = respond(prediction, call.mask)
        call.times.send = time.monotonic() - began
        # It is kept until the answer has left, so it must hold neither the frame nor the mask.
        verdict = prediction.is_anomalous, prediction.camera_problems
        count = partial(self._metrics.succeeded, call.model, *verdict, call.times)
        return answer, metadata.of_answer(prediction, call.times), count


# What the log says at DEBUG


def _who(call: DetectRequest) -> str:
    frame = "no frame" if call.bitmap is None else f"{call.bitmap.width}x{call.bitmap.height}"
    if call.bitmap is not None:
        frame += " in the message" if call.bitmap.handle is None else " in shared memory"
    caller = f"camera {call.caller.camera_id!r}" if call.caller.camera_id else call.caller.name
    return f"Model {call.model!r}, {caller or 'a caller without a name'}, {frame}"


def _decision(prediction: Prediction, call: DetectRequest) -> str:
    """Say what was decided, on what grounds, and how long it took."""
    relation = "reaches" if prediction.score >= prediction.threshold else "is below"
    problems = ", ".join(problem.value for problem in prediction.camera_problems)
    stages = ("receive", "queue", "preprocess", "compute", "postprocess", "publish")
    times = ", ".join(f"{stage} {1000.0 * getattr(call.times, stage):.1f}" for stage in stages)
    return (
        f"{'anomalous' if prediction.is_anomalous else 'normal'}: score {prediction.score:.4f} "
        f"{relation} the threshold {prediction.threshold:.4f}, confidence "
        f"{prediction.confidence:.4f}, {len(prediction.regions)} regions, camera problems: "
        f"{problems or 'none'}; version {prediction.model_version or 'unknown'}, "
        f"{call.caller.priority.value}, result {prediction.result_id or 'not published'}; "
        f"ms: {times}"
    )
