"""Every error the agent raises on purpose.

    EdgeAgentError
    ├── UserError                what the caller sent or asked for; never logged as a fault
    │   ├── InvalidRequest       INVALID_ARGUMENT     a field of the call is missing or wrong
    │   │   ├── InvalidFrame     INVALID_ARGUMENT     the frame or the mask target cannot be used
    │   │   │   └── FaultyPicture INVALID_ARGUMENT    the picture shows a problem of the camera
    │   │   └── InvalidPicture   INVALID_ARGUMENT     an image file cannot be used
    │   ├── ModelNotFound        NOT_FOUND
    │   ├── WrongModelState      FAILED_PRECONDITION
    │   ├── Overloaded           RESOURCE_EXHAUSTED   queue full; retry later
    │   │   ├── OutOfMemory      RESOURCE_EXHAUSTED   no room to load a model or to map memory
    │   │   ├── OutOfDescriptors RESOURCE_EXHAUSTED   too many files and connections are open
    │   │   └── CallsTakeTooMuch RESOURCE_EXHAUSTED   no room for the bytes of the call
    │   ├── NotAllowed           PERMISSION_DENIED    the caller may not do this
    │   ├── DeadlineExceeded     DEADLINE_EXCEEDED
    │   ├── MalformedMessage     INTERNAL             not the protobuf message of this call
    │   └── InvalidConfiguration UNKNOWN              settings, at start only
    ├── ModelError               UNKNOWN              a package or engine that cannot serve
    │   ├── InvalidPackage       UNKNOWN              manifest, checksum, layout
    │   ├── BackendUnavailable   UNKNOWN              engine library missing or unusable here
    │   │   ├── EngineUnusable   UNKNOWN              damaged, or built for another machine
    │   │   └── BuildFailed      UNKNOWN              killed, out of memory or disk, too late
    │   ├── ParityFailed         UNKNOWN              engine gives other results than it must
    │   └── InferenceFailed      INTERNAL             the engine failed on a frame
    │       ├── NotNumbers       INTERNAL             the engine's outputs aren't numbers (NaN)
    │       └── GpuFailed        INTERNAL             a call of the CUDA driver failed
    └── AgentUnavailable         UNAVAILABLE          stopping, or not reachable from a client

Each class names the gRPC status it becomes; only `runtime/rpc/status.py` reads that name. The
class's own name travels beside it, so that the client raises the same class. Messages say what
came, what was expected and what to do next, and hold no secret.
"""

from __future__ import annotations

from typing import ClassVar, List


class EdgeAgentError(Exception):
    """Base of all; `status` is the name of the gRPC status code the error becomes."""

    status: ClassVar[str] = "UNKNOWN"


class UserError(EdgeAgentError):
    """The caller can correct it."""


class InvalidRequest(UserError):
    """A field of the call is missing or wrong."""

    status = "INVALID_ARGUMENT"


class InvalidFrame(InvalidRequest):
    """The frame, or the place asked for the mask, cannot be used."""


class FaultyPicture(InvalidFrame):
    """The picture shows a problem of the camera, and the settings refuse such pictures.

    `problems` are values of `types.CameraProblem`, as they stand in the trailing metadata.
    """

    problems: str = ""

    @classmethod
    def showing(cls, problems: List[str]) -> FaultyPicture:
        """Build the sentence."""
        error = cls(
            f"The picture is {' and '.join(problems)}: the camera, its lens or its lamp has a "
            "problem. Check them. The setting decision.camera_problem refuses such pictures."
        )
        error.problems = ", ".join(problems)
        return error


class InvalidPicture(InvalidRequest):
    """An image file cannot be used; `reason`: why, in few words."""

    reason: str = ""

    @classmethod
    def named(cls, file: str, reason: str) -> InvalidPicture:
        """Build the sentence; `file`: its path, fit to be shown."""
        error = cls(f"{file} can't be used: {reason}.")
        error.reason = reason
        return error


class ModelNotFound(UserError):
    """No model of that name is deployed."""

    status = "NOT_FOUND"

    @classmethod
    def named(cls, name: str, known: list[str]) -> ModelNotFound:
        """Build the sentence; `known`: the deployed models."""
        there = ", ".join(known) if known else "none"
        return cls(f"Model {name!r} isn't deployed on this device. Deployed models: {there}.")


class WrongModelState(UserError):
    """The model is not in a state that allows the call."""

    status = "FAILED_PRECONDITION"


class Overloaded(UserError):
    """There is no room for more at present, first of all in the model's queue; try again later.

    `waiting` frames are in the queue; `retry_after_s`: until they should be done, in seconds.
    """

    status = "RESOURCE_EXHAUSTED"
    waiting: int = 0
    retry_after_s: float = 0.0

    @classmethod
    def behind(cls, waiting: int, retry_after_s: float) -> Overloaded:
        """Build the sentence; `waiting` frames are in the queue."""
        error = cls(
            f"The model can't keep up with the rate of calls: {waiting} frames are waiting. "
            f"Call less often, or retry after {1000 * retry_after_s:.0f} ms."
        )
        error.waiting, error.retry_after_s = waiting, retry_after_s
        return error


class OutOfMemory(Overloaded):
    """There is no room to load the model, or to map the caller's shared memory."""


class OutOfDescriptors(Overloaded):
    """Too many files and connections are open to open what the caller names."""


class CallsTakeTooMuch(Overloaded):
    """The messages of all calls together need more memory than `server.memory_mib` allows."""

    @classmethod
    def beside(cls, size: int, used: int, limit: int) -> CallsTakeTooMuch:
        """Build the sentence: `size` bytes asked for beside `used` bytes of `limit`."""
        mib = 1024 * 1024
        return cls(
            f"The call needs {size / mib:.1f} MiB for its messages; other calls hold "
            f"{used // mib} of {limit // mib} MiB. Retry later, use shared memory, or raise "
            "server.memory_mib."
        )


class NotAllowed(UserError):
    """The caller may not make this call."""

    status = "PERMISSION_DENIED"


class DeadlineExceeded(UserError):
    """The caller's deadline passed before the frame was computed."""

    status = "DEADLINE_EXCEEDED"


class MalformedMessage(UserError):
    """The bytes are not the protobuf message of this call; INTERNAL by contract."""

    status = "INTERNAL"


class InvalidConfiguration(UserError):
    """A setting is unknown or has a value that cannot be used."""


class ModelError(EdgeAgentError):
    """The model cannot serve as it is."""


class InvalidPackage(ModelError):
    """The model package is damaged, unsafe or not of a known format."""


class BackendUnavailable(ModelError):
    """The engine's library is missing or cannot work on this machine."""


class EngineUnusable(BackendUnavailable):
    """An engine can't be used here: it is damaged, or was built for another machine or release."""


class BuildFailed(BackendUnavailable):
    """An engine couldn't be built or stored, for want of time, memory or disk; try again."""


class ParityFailed(ModelError):
    """The engine doesn't reproduce the package's golden samples; `table` lists what differs."""

    table: str = ""

    @classmethod
    def showing(cls, message: str, table: str) -> ParityFailed:
        """Build it from a sentence and a table of several lines for the log."""
        error = cls(message)
        error.table = table
        return error


class InferenceFailed(ModelError):
    """The engine failed on a frame."""

    status = "INTERNAL"


class NotNumbers(InferenceFailed):
    """The engine's outputs for a frame aren't numbers (NaN)."""


class GpuFailed(InferenceFailed):
    """A call of the CUDA driver failed; after a sticky error the process can't use the GPU again.

    `code` is the driver's CUresult.
    """

    code: int = 0
    is_sticky: bool = False

    @classmethod
    def after(cls, sentence: str, code: int, is_sticky: bool) -> GpuFailed:
        """Build it from a sentence that says what failed and what to do."""
        error = cls(sentence)
        error.code, error.is_sticky = code, is_sticky
        return error


class AgentUnavailable(EdgeAgentError):
    """The agent is stopping, or a client cannot reach it."""

    status = "UNAVAILABLE"
