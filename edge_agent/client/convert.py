"""Wire → values and errors of ours, on the client's side."""

from __future__ import annotations

from typing import Dict, Iterator, Optional, Type, Union

import grpc
import numpy as np

from edge_agent import errors, protocol
from edge_agent.client.segment import FrameSegment
from edge_agent.types import Anomaly, CameraProblem, ModelInfo, ModelState, Prediction, Region
from edge_agent.wire import edge_agent_pb2 as wire
from edge_agent.wire import edge_agent_v1_pb2 as wire_v1

# For the status of a call that reached no agent, and of agents up to version 1.3, which name no
# error: the class that most errors of the status have in common.
_BY_STATUS = {
    grpc.StatusCode.INVALID_ARGUMENT: errors.InvalidRequest,
    grpc.StatusCode.NOT_FOUND: errors.ModelNotFound,
    grpc.StatusCode.FAILED_PRECONDITION: errors.WrongModelState,
    grpc.StatusCode.RESOURCE_EXHAUSTED: errors.Overloaded,
    grpc.StatusCode.PERMISSION_DENIED: errors.NotAllowed,
    grpc.StatusCode.DEADLINE_EXCEEDED: errors.DeadlineExceeded,
    grpc.StatusCode.UNAVAILABLE: errors.AgentUnavailable,
    grpc.StatusCode.INTERNAL: errors.InferenceFailed,
}

_PROBLEMS = {problem.value: problem for problem in CameraProblem}


def _family(kind: Type[errors.EdgeAgentError]) -> Iterator[Type[errors.EdgeAgentError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from _family(child)


_BY_NAME: Dict[str, Type[errors.EdgeAgentError]] = {
    kind.__name__: kind
    for kind in _family(errors.EdgeAgentError)
    if kind.__module__ == errors.__name__
}


def error(rpc_error: grpc.Call) -> errors.EdgeAgentError:
    """Return the error that the agent raised, with its sentence."""
    code, trailing = rpc_error.code(), dict(rpc_error.trailing_metadata() or ())
    found = failure(code, rpc_error.details() or code.name, trailing.get(protocol.ERROR_NAME, ""))
    if isinstance(found, errors.Overloaded):
        found.waiting = int(trailing.get(protocol.QUEUE_LENGTH, 0))
        found.retry_after_s = int(trailing.get(protocol.RETRY_AFTER_MS, 0)) / 1000
    if isinstance(found, errors.FaultyPicture):
        found.problems = trailing.get(protocol.CAMERA_PROBLEMS, "")
    return found


def is_of_grpc(rpc_error: grpc.Call) -> bool:
    """Whether no agent raised it; an agent names its error, or says what it is about in a text."""
    return protocol.ERROR_NAME not in dict(rpc_error.trailing_metadata() or ())


def failure(code: grpc.StatusCode, sentence: str, name: str) -> errors.EdgeAgentError:
    """Return the error of that class name; of an unknown one, what the status stands for."""
    kind = _BY_NAME.get(name) or _BY_STATUS.get(code, errors.EdgeAgentError)
    return kind(sentence)


def model_info(entry: Union[wire.ModelDescription, wire.ModelMetadata]) -> ModelInfo:
    """Read a model's state."""
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
        is_unsure=reply.is_unsure,
    )
