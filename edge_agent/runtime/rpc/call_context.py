"""What the agent uses of grpc, which has no types of its own, and of protobuf's messages."""

from __future__ import annotations

from typing import Callable, Iterable, Mapping, NoReturn, Optional, Protocol, Tuple, Type, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message

from edge_agent.errors import MalformedMessage

M = TypeVar("M", bound=Message)

Metadata = Tuple[Tuple[str, str], ...]


class CallContext(Protocol):
    """One call on the server's side: `grpc.ServicerContext`."""

    def peer(self) -> str:
        """Return who calls: "unix:", "ipv4:127.0.0.1:50000"."""

    def invocation_metadata(self) -> Iterable[Tuple[str, str]]:
        """Return the request's metadata."""

    def auth_context(self) -> Mapping[str, Iterable[bytes]]:
        """Return what the caller's certificate says."""

    def time_remaining(self) -> float:
        """Return the seconds until the caller's deadline, infinite without one."""

    def is_active(self) -> bool:
        """Whether somebody still waits for the answer."""

    def add_callback(self, callback: Callable[[], object]) -> bool:
        """Have `callback` called at the call's end; False when it has ended already."""

    def set_trailing_metadata(self, metadata: Metadata) -> None:
        """Set what follows the answer or the error."""

    def code(self) -> Optional[grpc.StatusCode]:
        """Return the status that was set, None before."""

    def abort(self, code: grpc.StatusCode, details: str) -> NoReturn:
        """End the call with an error; raises."""

    def cancel(self) -> object:
        """End the call at once."""


def parse(kind: Type[M], content: bytes) -> M:
    """Read a serialised message. Raises MalformedMessage."""
    try:
        message: M = kind.FromString(content)
    except DecodeError:
        raise MalformedMessage(f"The request isn't a {kind.DESCRIPTOR.full_name}.") from None
    return message
