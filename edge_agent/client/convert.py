"""Wire → values and errors of ours, on the client's side."""

from __future__ import annotations

from typing import Any, Optional

import grpc
import numpy as np

from edge_agent import errors
from edge_agent.client.segment import FrameSegment
from edge_agent.types import Anomaly, CameraProblem, ModelInfo, ModelState, Prediction, Region
from edge_agent.wire import edge_agent_v1_pb2 as wire_v1

_ERRORS = {
    grpc.StatusCode.INVALID_ARGUMENT: errors.InvalidRequest,
    grpc.StatusCode.NOT_FOUND: errors.ModelNotFound,
    grpc.StatusCode.FAILED_PRECONDITION: errors.WrongModelState,
    grpc.StatusCode.RESOURCE_EXHAUSTED: errors.Overloaded,
    grpc.StatusCode.DEADLINE_EXCEEDED: errors.DeadlineExceeded,
    grpc.StatusCode.UNAVAILABLE: errors.AgentUnavailable,
    grpc.StatusCode.INTERNAL: errors.InferenceFailed,
}

_PROBLEMS = {problem.value: problem for problem in CameraProblem}


def error(rpc_error: Any) -> errors.EdgeAgentError:
    """Return the error of ours that the status stands for."""
    found = failure(rpc_error.code(), rpc_error.details() or rpc_error.code().name)
    if isinstance(found, errors.Overloaded):
        told = dict(rpc_error.trailing_metadata() or ())
        found.waiting = int(told.get("queue-length", 0))
        found.retry_after_s = int(told.get("grpc-retry-pushback-ms", 0)) / 1000
    return found


def failure(code: grpc.StatusCode, sentence: str) -> errors.EdgeAgentError:
    """Return the error of ours that a status code stands for."""
    return _ERRORS.get(code, errors.EdgeAgentError)(sentence)


def model_info(entry: Any) -> ModelInfo:
    """Read a ModelDescription or ModelMetadata."""
    return ModelInfo(
        entry.model_component,
        ModelState(entry.status),
        entry.status_message,
        entry.lookout_vision_model_arn,
    )


def prediction(reply: wire_v1.InspectResponse, segment: Optional[FrameSegment]) -> Prediction:
    """Read a verdict; `segment` is where the mask was asked for, None: in the reply."""
    result = reply.result
    bitmap = result.anomaly_mask
    mask = None
    if bitmap.HasField("shared_memory_handle") and segment is not None:
        mask = segment.mask(bitmap.width, bitmap.height).copy()
    elif bitmap.byte_data:
        shape = (bitmap.height, bitmap.width, 3)
        mask = np.frombuffer(bitmap.byte_data, np.uint8).reshape(shape)
    return Prediction(
        is_anomalous=result.is_anomalous,
        confidence=result.confidence,
        score=result.anomaly_score,
        threshold=result.anomaly_threshold,
        anomalies=tuple(
            Anomaly(
                entry.name, entry.pixel_anomaly.total_percentage_area, entry.pixel_anomaly.hex_color
            )
            for entry in result.anomalies
        ),
        regions=tuple(
            Region(
                entry.name, entry.left, entry.top, entry.width, entry.height, entry.area, entry.peak
            )
            for entry in reply.regions
        ),
        mask=mask,
        mask_size=(bitmap.width, bitmap.height),
        model_version=reply.model_version,
        camera_problems=tuple(  # those of a later agent that aren't known here say nothing
            _PROBLEMS[name] for name in reply.camera_problems if name in _PROBLEMS
        ),
        result_id=reply.result_id,
    )
