"""What awsiot calls back on the connection's thread, and the futures our callers get instead.

Nothing here imports awsiot; its objects are used by what they have.
"""

from __future__ import annotations

from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from typing import Any, Callable, Optional

from edge_agent.runtime.host.nucleus import NucleusError


class Lifecycle:
    """What awsiot tells of the connection as a whole."""

    def __init__(self, lose: Callable[[str], None]) -> None:
        self._lose = lose

    def on_connect(self) -> None:
        """Do nothing: the future of the attempt tells it."""

    def on_disconnect(self, reason: Optional[Exception]) -> None:
        """Tell that the connection has ended."""
        self._lose(name_of(reason))

    def on_error(self, _error: Exception) -> bool:
        """Disconnect."""
        return True

    def on_ping(self, _headers: object, _payload: bytes) -> None:
        """Do nothing."""


class Stream:
    """What awsiot tells of a subscription."""

    def __init__(self, on_event: Callable[[Any], None], on_end: Callable[[], None]) -> None:
        self.on_stream_event = on_event
        self.on_stream_closed = on_end

    def on_stream_error(self, error: Exception) -> bool:
        """Close the stream."""
        free(error)
        return True


def new_future() -> Future[Any]:
    """Return a future that can't be cancelled."""
    future: Future[Any] = Future()
    future.set_running_or_notify_cancel()
    return future


def failed(error: NucleusError) -> Future[Any]:
    """Return a future that has ended already."""
    future = new_future()
    future.set_exception(error)
    return future


def settle(future: Future[Any], error: Optional[NucleusError] = None, value: Any = None) -> None:
    """End `future`, unless another thread was first."""
    with suppress(InvalidStateError):
        if error is None:
            future.set_result(value)
        else:
            future.set_exception(error)


def free(error: BaseException) -> None:
    """Let go of the error's traceback: it holds the connection in a cycle, and so its thread."""
    error.__traceback__ = None


def name_of(error: Optional[BaseException]) -> str:
    """Return what awscrt or Python calls the error."""
    return str(getattr(error, "name", type(error).__name__))
