"""One connection to the nucleus's IPC, from the attempt to its end; it is never made again.

Beside `host.greengrass` the only module that uses awsiot, which it imports when it connects.
"""

from __future__ import annotations

import json
import logging
import threading
from concurrent.futures import Future, InvalidStateError, wait
from contextlib import suppress
from typing import Callable, Dict, Optional, Protocol, TypeVar

from edge_agent.runtime.host.nucleus import NucleusError

CONNECT_WITHIN_S = 10.0

Result = TypeVar("Result")
Configuration = Dict[str, object]


class IpcResponse(Protocol):
    """The answer to a request; only that to GetConfiguration has a value."""

    value: Optional[Configuration]


class IpcConnection(Protocol):
    """awsiot's connection, before it is made."""

    def connect(self, lifecycle_handler: object) -> Future[None]:
        """Start to connect."""


class IpcClient(Protocol):
    """awsiot's client; its operations are called by name."""

    def close(self) -> Future[None]:
        """Disconnect."""


class EventLoop:
    """awscrt's thread, for one session after the other; it ends when nothing refers to it."""

    def __init__(self) -> None:
        from awscrt import io

        loop = io.EventLoopGroup(1)
        self.ended: threading.Event = loop.shutdown_event
        self.bootstrap: object = io.ClientBootstrap(loop, io.DefaultHostResolver(loop))


class Session:
    """Introduces the component by `identity`, its token or its name, and owns the connection.

    `on_open(session)` is called when the nucleus has accepted it, `on_end(session, reason)` once
    when it could not be made or has ended, on any thread; not after `close`.
    """

    def __init__(
        self,
        identity: Dict[str, str],
        on_open: Callable[[Session], None],
        on_end: Callable[[Session, str], None],
    ) -> None:
        self.identity = identity
        self.client: Optional[IpcClient] = None
        self.is_open = False
        self.was_refused = False  # a nucleus listens, but hasn't accepted this identity
        self._on_open, self._on_end = on_open, on_end
        self._lock = threading.Lock()
        self._ended = False
        self._limit: Optional[threading.Timer] = None

    def start(self, path: str, loop: EventLoop, within_s: float) -> None:
        """Start to connect, and return at once."""
        self._limit = threading.Timer(within_s, self._give_up, [f"no answer within {within_s:g} s"])
        self._limit.daemon = True
        self._limit.start()
        try:
            attempt = self._connection(path, loop).connect(ConnectionLifecycle(self._end))
        except Exception as error:  # a path that can't be one; the class varies
            self._end(error_name(error))
        else:
            attempt.add_done_callback(self._attempted)

    def close(self, within_s: float) -> None:
        """Disconnect; not to be called on the event loop's thread."""
        with self._lock:
            self._ended = True
        client = self._release()
        if client is not None:
            wait([client.close()], within_s)

    def _connection(self, path: str, loop: EventLoop) -> IpcConnection:
        """Make the connection; awsiot's own `connect` waits, and leaks what isn't answered."""
        from awscrt import io
        from awsiot import eventstreamrpc
        from awsiot.greengrasscoreipc.client import GreengrassCoreIPCClient

        # What it logs of each attempt is ours to say, once.
        logging.getLogger(eventstreamrpc.__name__).setLevel(logging.CRITICAL)

        options = io.SocketOptions()
        options.domain = io.SocketDomain.Local

        def introduce() -> eventstreamrpc.MessageAmendment:
            self.was_refused = True
            return eventstreamrpc.MessageAmendment(payload=json.dumps(self.identity).encode())

        connection: IpcConnection = eventstreamrpc.Connection(
            host_name=path,
            port=0,  # not used
            bootstrap=loop.bootstrap,
            socket_options=options,
            connect_message_amender=introduce,
        )
        self.client = GreengrassCoreIPCClient(connection)
        return connection

    def _attempted(self, attempt: Future[None]) -> None:
        error = attempt.exception()
        if error is not None:
            self._end(error_name(error))
            return
        with self._lock:
            if self._ended:
                return
            self.is_open, self.was_refused = True, False
        if self._limit is not None:
            self._limit.cancel()
        self._on_open(self)

    def _give_up(self, reason: str) -> None:
        self.was_refused = False  # it is silent
        client = self.client
        self._end(reason)
        if client is not None:
            client.close()

    def _end(self, reason: str) -> None:
        with self._lock:
            if self._ended:
                return
            self._ended = True
        self._release()
        self._on_end(self, reason)

    def _release(self) -> Optional[IpcClient]:
        """Drop the client: it, the connection and this session refer to each other."""
        if self._limit is not None:
            self._limit.cancel()
        self.is_open, client, self.client = False, self.client, None
        return client


class ConnectionLifecycle:
    """Receives the events of the connection, on awscrt's thread."""

    def __init__(self, on_end: Callable[[str], None]) -> None:
        self._on_end = on_end

    def on_connect(self) -> None:
        """Do nothing: the future of the attempt ends."""

    def on_disconnect(self, reason: Optional[Exception]) -> None:
        """Report that the connection has ended."""
        self._on_end(error_name(reason))

    def on_error(self, _error: Exception) -> bool:
        """Disconnect."""
        return True

    def on_ping(self, _headers: object, _payload: bytes) -> None:
        """Do nothing."""


def new_future() -> Future[Result]:
    """Return a future that can't be cancelled."""
    future: Future[Result] = Future()
    future.set_running_or_notify_cancel()
    return future


def failed_future(error: NucleusError) -> Future[Result]:
    """Return a future that has ended already."""
    future: Future[Result] = new_future()
    future.set_exception(error)
    return future


def finish(future: Future[Result], value: Result) -> None:
    """End `future`, unless another thread was first."""
    with suppress(InvalidStateError):
        future.set_result(value)


def fail(future: Future[Result], error: NucleusError) -> None:
    """End `future` with an error, unless another thread was first."""
    with suppress(InvalidStateError):
        future.set_exception(error)


def release_traceback(error: BaseException) -> None:
    """Remove the error's traceback: it holds the connection in a cycle, and so its thread."""
    error.__traceback__ = None


def error_name(error: Optional[BaseException]) -> str:
    """Return the error's name in awscrt or Python."""
    return str(getattr(error, "name", type(error).__name__))
