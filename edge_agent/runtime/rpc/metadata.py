"""What travels beside the messages: who calls, how long the stages took, when to try again.

Request: `camera-id` (callers of the same id take turns with others; default: the connection and the
shared memory it uses), `lane` (inspection, rescoring). Answer, as trailing metadata:
`server-timing` in the syntax of https://www.w3.org/TR/server-timing/, milliseconds;
`camera-problems`, such as "dark, frozen" (values of `types.CameraProblem`), when there are any;
`result-id`, that of the result event, when one is published; on RESOURCE_EXHAUSTED
`queue-length` and `grpc-retry-pushback-ms`, gRPC's own name for "retry after"
(https://github.com/grpc/proposal/blob/master/A6-client-retries.md).
"""

from __future__ import annotations

import time
from typing import Any, Callable, Tuple

from edge_agent.errors import InvalidRequest, Overloaded
from edge_agent.types import Caller, Lane, Prediction, StageTimes
from edge_agent.wire import edge_agent_pb2 as wire

CAMERA_ID = "camera-id"
LANE = "lane"
SERVER_TIMING = "server-timing"
CAMERA_PROBLEMS = "camera-problems"
RESULT_ID = "result-id"

Metadata = Tuple[Tuple[str, str], ...]
Stages = Tuple[Tuple[str, float], ...]


def unary_caller(request: wire.DetectAnomaliesRequest, context: Any) -> Caller:
    """Return who makes a call of one frame. Raises InvalidRequest for an unknown lane."""
    # gRPC can't tell two connections to one Unix socket apart; the segments of cameras differ.
    name = f"{context.peer()} {request.bitmap.shared_memory_handle.name}"
    return caller(context, name, context.add_callback)


def caller(context: Any, name: str, when_gone: Callable[[Callable[[], object]], bool]) -> Caller:
    """Return who calls; `name` where no camera id is given. Raises InvalidRequest."""
    told = {key: value for key, value in context.invocation_metadata() if key in (CAMERA_ID, LANE)}
    try:
        lane = Lane(told.get(LANE, Lane.INSPECTION.value))
    except ValueError:
        lanes = ", ".join(lane.value for lane in Lane)
        raise InvalidRequest(f"Metadata lane is {told[LANE]!r}; expected {lanes}.") from None
    deadline = time.monotonic() + context.time_remaining()  # infinite when the caller has none
    camera_id = told.get(CAMERA_ID, "")
    return Caller(camera_id or name, lane, deadline, when_gone, camera_id)


def stages(times: StageTimes) -> Stages:
    """Return each stage and its seconds, in the order they happen."""
    return (
        ("receive", times.receive),
        ("queue", times.queue),
        ("preprocess", times.preprocess),
        ("compute", times.compute),
        ("postprocess", times.postprocess),
        ("publish", times.publish),
        ("send", times.send),
    )


def server_timing(stages: Stages) -> str:
    """Return the stages in Server-Timing syntax."""
    return ", ".join(f"{stage};dur={1000 * seconds:.3f}" for stage, seconds in stages)


def beside(prediction: Prediction, stages: Stages) -> Metadata:
    """Return what an answer tells beside its message."""
    told = [(SERVER_TIMING, server_timing(stages))]
    if prediction.camera_problems:
        problems = ", ".join(problem.value for problem in prediction.camera_problems)
        told.append((CAMERA_PROBLEMS, problems))
    if prediction.result_id:
        told.append((RESULT_ID, prediction.result_id))
    return tuple(told)


def hints(error: BaseException) -> Metadata:
    """Return what an error tells beside its sentence."""
    if isinstance(error, Overloaded) and error.waiting:
        return (
            ("queue-length", str(error.waiting)),
            ("grpc-retry-pushback-ms", str(max(1, round(1000 * error.retry_after_s)))),
        )
    return ()
