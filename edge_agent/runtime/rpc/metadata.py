"""What travels beside the messages: who calls, how long the stages took, when to try again.

Request: `camera-id` (callers of the same id take turns with others; default: the connection and the
shared memory it uses), `lane` (inspection, rescoring); both of printable ASCII and at most 128
characters. Answer, as trailing metadata:
`server-timing` in the syntax of https://www.w3.org/TR/server-timing/, milliseconds;
`camera-problems`, such as "dark, frozen" (values of `types.CameraProblem`), when there are any;
`result-id`, that of the result event, when one is published; on RESOURCE_EXHAUSTED
`queue-length` and `grpc-retry-pushback-ms`, gRPC's own name for "retry after"
(https://github.com/grpc/proposal/blob/master/A6-client-retries.md).
"""

from __future__ import annotations

import time
from dataclasses import fields
from typing import Any, Callable, Optional, Tuple

from edge_agent.errors import InvalidRequest, Overloaded
from edge_agent.types import Bitmap, Caller, Lane, Prediction, StageTimes

CAMERA_ID = "camera-id"
LANE = "lane"
SERVER_TIMING = "server-timing"
CAMERA_PROBLEMS = "camera-problems"
RESULT_ID = "result-id"

STAGES = tuple(stage.name for stage in fields(StageTimes))  # in the order they happen
SERVER_TIMING_SYNTAX = ", ".join(f"{stage};dur=%.3f" for stage in STAGES)

MOST_CHARACTERS = 128  # of a value that the agent reads
# How gRPC writes the address of a client of a Unix socket; the second is one that has bound itself
# to an abstract name.
UNIX_SOCKET = ("unix:", "unix-abstract:")

Metadata = Tuple[Tuple[str, str], ...]
WhenGone = Callable[[Callable[[], object]], bool]


def unary_caller(bitmap: Optional[Bitmap], context: Any) -> Caller:
    """Return who makes a call of one frame. Raises InvalidRequest as `caller`."""
    # gRPC can't tell two connections to one Unix socket apart; the segments of cameras differ.
    segment = bitmap.handle.name if bitmap and bitmap.handle else ""
    peer = context.peer()
    return _caller(context, peer, f"{peer} {segment}", context.add_callback)


def caller(context: Any, name: str, when_gone: WhenGone) -> Caller:
    """Return who calls; `name` where no camera id is given.

    Raises InvalidRequest for an unknown lane, and for a value of more than MOST_CHARACTERS or with
    other than printable characters of ASCII.
    """
    return _caller(context, context.peer(), name, when_gone)


def _caller(context: Any, peer: str, name: str, when_gone: WhenGone) -> Caller:
    camera_id, lane = "", Lane.INSPECTION
    for key, value in context.invocation_metadata():
        if key == CAMERA_ID:
            camera_id = _printable(key, value)
        elif key == LANE:
            lane = _lane(_printable(key, value))
    deadline = time.monotonic() + context.time_remaining()  # infinite when the caller has none
    is_local = peer.startswith(UNIX_SOCKET)
    return Caller(camera_id or name, lane, deadline, when_gone, camera_id, is_local)


def _printable(key: str, value: str) -> str:
    if len(value) > MOST_CHARACTERS:
        raise InvalidRequest(
            f"Metadata {key} has {len(value)} characters; at most {MOST_CHARACTERS} are possible."
        )
    if not (value.isascii() and value.isprintable()):
        raise InvalidRequest(f"Metadata {key} is {value!a}; expected printable ASCII characters.")
    return value


def _lane(name: str) -> Lane:
    try:
        return Lane(name)
    except ValueError:
        lanes = ", ".join(lane.value for lane in Lane)
        raise InvalidRequest(f"Metadata lane is {name!r}; expected {lanes}.") from None


def server_timing(times: StageTimes) -> str:
    """Return the stages in Server-Timing syntax."""
    return SERVER_TIMING_SYNTAX % tuple([1000 * seconds for seconds in vars(times).values()])


def beside(prediction: Prediction, times: StageTimes) -> Metadata:
    """Return what an answer tells beside its message."""
    told = [(SERVER_TIMING, server_timing(times))]
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
