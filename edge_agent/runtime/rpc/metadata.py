"""What travels beside the messages: who calls, how long the stages took, when to try again.

`edge_agent/protocol.py` lists the keys.
"""

from __future__ import annotations

import time
from dataclasses import fields
from typing import Callable, Optional

from edge_agent import protocol
from edge_agent.errors import EdgeAgentError, FaultyPicture, InvalidRequest, Overloaded
from edge_agent.runtime.rpc.call_context import CallContext, Metadata
from edge_agent.types import Bitmap, Caller, Prediction, Priority, StageTimes

STAGES = tuple(stage.name for stage in fields(StageTimes))  # in the order they happen
SERVER_TIMING_SYNTAX = ", ".join(f"{stage};dur=%.3f" for stage in STAGES)

# How gRPC writes the address of a client of a Unix socket; the second is one that has bound itself
# to an abstract name.
UNIX_SOCKET = ("unix:", "unix-abstract:")

OnCancel = Callable[[Callable[[], object]], bool]  # as `types.Caller.on_cancel`


def unary_caller(bitmap: Optional[Bitmap], context: CallContext) -> Caller:
    """Return who makes a call of one frame. Raises InvalidRequest as `caller`."""
    # gRPC can't tell two connections to one Unix socket apart; the segments of cameras differ.
    segment = bitmap.handle.name if bitmap and bitmap.handle else ""
    peer = context.peer()
    return _caller(context, peer, f"{peer} {segment}", context.add_callback)


def caller(context: CallContext, name: str, on_cancel: OnCancel) -> Caller:
    """Return who calls; `name` where no camera id is given.

    Raises InvalidRequest for an unknown priority, and for a value that is too long or has other
    than printable characters of ASCII.
    """
    return _caller(context, context.peer(), name, on_cancel)


def _caller(context: CallContext, peer: str, name: str, on_cancel: OnCancel) -> Caller:
    camera_id, priority = "", Priority.INSPECTION
    for key, value in context.invocation_metadata():
        if key == protocol.CAMERA_ID:
            camera_id = _printable(key, value)
        elif key == protocol.PRIORITY:
            priority = _priority(_printable(key, value))
    deadline = time.monotonic() + context.time_remaining()  # infinite when the caller has none
    is_local = peer.startswith(UNIX_SOCKET)
    return Caller(camera_id or name, priority, deadline, on_cancel, camera_id, is_local)


def _printable(key: str, value: str) -> str:
    most = protocol.METADATA_LIMIT_CHARACTERS
    if len(value) > most:
        raise InvalidRequest(
            f"Metadata {key} has {len(value)} characters; at most {most} are possible."
        )
    if not (value.isascii() and value.isprintable()):
        raise InvalidRequest(f"Metadata {key} is {value!a}; expected printable ASCII characters.")
    return value


def _priority(name: str) -> Priority:
    try:
        return Priority(name)
    except ValueError:
        known = ", ".join(priority.value for priority in Priority)
        raise InvalidRequest(
            f"Metadata {protocol.PRIORITY} is {name!r}; expected {known}."
        ) from None


def server_timing(times: StageTimes) -> str:
    """Return the stages in Server-Timing syntax."""
    return SERVER_TIMING_SYNTAX % tuple([1000 * seconds for seconds in vars(times).values()])


def of_answer(prediction: Prediction, times: StageTimes) -> Metadata:
    """Return the trailing metadata of a verdict."""
    found = [(protocol.SERVER_TIMING, server_timing(times))]
    if prediction.camera_problems:
        problems = ", ".join(problem.value for problem in prediction.camera_problems)
        found.append((protocol.CAMERA_PROBLEMS, problems))
    if prediction.result_id:
        found.append((protocol.RESULT_ID, prediction.result_id))
    return tuple(found)


def of_error(error: BaseException) -> Metadata:
    """Return the trailing metadata of an error."""
    if not isinstance(error, EdgeAgentError):
        return ()
    name = (protocol.ERROR_NAME, type(error).__name__)
    if isinstance(error, Overloaded) and error.waiting:
        return (
            name,
            (protocol.QUEUE_LENGTH, str(error.waiting)),
            (protocol.RETRY_AFTER_MS, str(max(1, round(1000 * error.retry_after_s)))),
        )
    if isinstance(error, FaultyPicture):
        return (name, (protocol.CAMERA_PROBLEMS, error.problems))
    return (name,)
