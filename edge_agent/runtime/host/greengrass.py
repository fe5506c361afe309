"""The connection to the AWS IoT Greengrass nucleus (IPC), classic (Java) and lite (C) alike.

The one module that knows awsiot, which it imports when it connects. Of an error only the class is
used: lite's texts don't reach Python. A lost connection isn't made anew: with its restart the
nucleus has forgotten the token, so that only a new start of the component helps.
"""

from __future__ import annotations

import threading
from concurrent.futures import Future, InvalidStateError, wait
from contextlib import suppress
from typing import Any, Callable, Mapping, Optional

from typing_extensions import Literal

from edge_agent.runtime.host.nucleus import (
    PUBLISH,
    PUBLISH_LOCALLY,
    SUBSCRIBE,
    UPDATE_STATE,
    NotAccepted,
    NucleusError,
    NucleusLost,
    Operation,
    translated,
    why_never,
    why_never_to_iot_core,
)

SOCKET = "AWS_GG_NUCLEUS_DOMAIN_SOCKET_FILEPATH_FOR_COMPONENT"
TOKEN = "SVCUID"
CONNECT_WITHIN_S = 10.0


def available(environment: Mapping[str, str]) -> bool:
    """Tell whether a nucleus has started this process."""
    return bool(environment.get(SOCKET))


class Greengrass:
    """Owns the connection and its one thread; every method may be called on any other thread.

    The futures end with None or a NucleusError, on the connection's thread; they can't be
    cancelled. That thread must not be held up by what is called on it.
    """

    def __init__(
        self,
        environment: Mapping[str, str],
        on_lost: Callable[[str], None],
        connect_within_s: float = CONNECT_WITHIN_S,
    ) -> None:
        """Take socket and token from the component's environment.

        `on_lost` hears once, on any thread, why there is no connection any more, or why none could
        be made; the process should then exit with an error, to be started anew.
        """
        self._path, self._token = environment[SOCKET], environment.get(TOKEN, "")
        self._on_lost = on_lost
        self._lock = threading.Lock()
        self._why_lost = ""
        self._connected = _future()
        self._client: Any = None
        self._loop_ended = threading.Event()
        self._limit = threading.Timer(
            connect_within_s, self._lose, [f"it didn't answer within {connect_within_s:g} s"]
        )
        self._limit.daemon = True

    def connect(self) -> Future[None]:
        """Begin to connect, the first time, and return at once; fails with NucleusLost."""
        with self._lock:
            if self._why_lost:
                return _failed(NucleusLost(self._why_lost))
            if self._client is not None:
                return self._connected
            connection = self._connection()
        self._limit.start()
        try:
            attempt = connection.connect(_Lifecycle(self._lose))
        except Exception as error:  # a path that can't be one; the class varies
            self._lose(_name(error))
        else:
            attempt.add_done_callback(self._attempted)
        return self._connected

    def publish(self, topic: str, payload: bytes, qos: int) -> Future[None]:
        """Publish to AWS IoT Core; done when the nucleus has taken the message over.

        Classic has then put it into its spooler; lite has sent it, and repeats it (QoS 1) while
        its process lives. Lite takes at most 10 messages and 15,000 bytes that AWS IoT Core has not
        acknowledged, beyond that NucleusBusy.
        """
        from awsiot.greengrasscoreipc import model

        request = model.PublishToIoTCoreRequest(topic_name=topic, qos=str(qos), payload=payload)
        return self._call(PUBLISH, topic, request, why_never_to_iot_core(topic, payload))

    def publish_locally(self, topic: str, payload: bytes) -> Future[None]:
        """Publish to the device's components, as a binary message: the bytes stay what they are.

        As a JSON message lite would refuse some events (lists of 200 elements and more).
        """
        from awsiot.greengrasscoreipc import model

        message = model.PublishMessage(binary_message=model.BinaryMessage(message=payload))
        request = model.PublishToTopicRequest(topic=topic, publish_message=message)
        return self._call(PUBLISH_LOCALLY, topic, request, why_never(topic, payload))

    def subscribe(
        self,
        topic_filter: str,
        on_message: Callable[[str, bytes], None],
        on_end: Callable[[], None],
    ) -> Future[None]:
        """Receive from AWS IoT Core until the connection is closed.

        `on_message(topic, payload)` and `on_end`, when the nucleus ends or refuses it or is lost,
        are called on the connection's thread. Lite keeps back messages over about 4,900 bytes.
        """
        from awsiot.greengrasscoreipc import model

        request = model.SubscribeToIoTCoreRequest(topic_name=topic_filter, qos="1")
        return self._call(SUBSCRIBE, topic_filter, request, "", _Stream(on_message, on_end))

    def update_state(self, state: Literal["RUNNING", "ERRORED"]) -> Future[None]:
        """Tell the nucleus how the component is."""
        from awsiot.greengrasscoreipc import model

        return self._call(UPDATE_STATE, state, model.UpdateStateRequest(state=state))

    def close(self, within_s: float = 2.0) -> None:
        """Disconnect and end the thread; not to be called on it."""
        with self._lock:
            client, self._client = self._client, None
            self._why_lost = self._why_lost or "The connection to the nucleus was closed."
        self._limit.cancel()
        if client is None:
            return
        wait([client.close()], within_s)
        _settle(self._connected, NucleusLost(self._why_lost))
        del client  # the last reference: the thread ends when nobody has the connection
        self._loop_ended.wait(within_s)

    def _connection(self) -> Any:
        """Make what connects; awsiot's own `connect` waits, and leaks what isn't answered."""
        from awscrt import io
        from awsiot import eventstreamrpc
        from awsiot.greengrasscoreipc.client import GreengrassCoreIPCClient

        loop = io.EventLoopGroup(1)
        self._loop_ended = loop.shutdown_event
        options = io.SocketOptions()
        options.domain = io.SocketDomain.Local
        amender = eventstreamrpc.MessageAmendment.create_static_authtoken_amender(self._token)
        connection = eventstreamrpc.Connection(
            host_name=self._path,
            port=0,  # not used
            bootstrap=io.ClientBootstrap(loop, io.DefaultHostResolver(loop)),
            socket_options=options,
            connect_message_amender=amender,
        )
        self._client = GreengrassCoreIPCClient(connection)
        return connection

    def _attempted(self, attempt: Future[None]) -> None:
        error = attempt.exception()
        if error is not None:
            self._lose(_name(error))
        else:
            self._limit.cancel()
            _settle(self._connected)

    def _lose(self, reason: str) -> None:
        self._limit.cancel()
        with self._lock:
            if self._why_lost:
                return
            self._why_lost = (
                f"There is no connection to the Greengrass nucleus at {self._path} ({reason}): it "
                f"isn't running, has restarted, or doesn't know the token in {TOKEN}. "
                "The component must be started anew by the nucleus."
            )
        _settle(self._connected, NucleusLost(self._why_lost))
        self._on_lost(self._why_lost)

    def _call(
        self, operation: Operation, resource: str, request: Any, wrong: str = "", *stream: _Stream
    ) -> Future[None]:
        if wrong:
            return _failed(NotAccepted(wrong))
        ended = _future()

        def answered(response: Future[Any]) -> None:
            error = response.exception()
            if error is None:
                _settle(ended)
            elif type(error).__name__ == "StreamClosedError":
                _settle(ended, self._no_connection())
            else:
                _free(error)
                _settle(ended, translated(error, operation, resource))

        try:
            call = getattr(self._client, operation.factory)(*stream)
            call.activate(request)
        except Exception:  # not connected; each layer has a class of its own for it
            return _failed(self._no_connection())
        call.get_response().add_done_callback(answered)
        return ended

    def _no_connection(self) -> NucleusLost:
        return NucleusLost(self._why_lost or "There is no connection to the nucleus at present.")


class _Lifecycle:
    """What awsiot tells of the connection as a whole."""

    def __init__(self, lose: Callable[[str], None]) -> None:
        self._lose = lose

    def on_connect(self) -> None:
        """Do nothing: the future of the attempt tells it."""

    def on_disconnect(self, reason: Optional[Exception]) -> None:
        self._lose(_name(reason))

    def on_error(self, _error: Exception) -> bool:
        return True  # disconnect

    def on_ping(self, _headers: object, _payload: bytes) -> None:
        """Do nothing."""


class _Stream:
    """What awsiot tells of a subscription."""

    def __init__(
        self, on_message: Callable[[str, bytes], None], on_end: Callable[[], None]
    ) -> None:
        self._on_message = on_message
        self.on_stream_closed = on_end

    def on_stream_event(self, event: Any) -> None:
        self._on_message(event.message.topic_name, event.message.payload or b"")

    def on_stream_error(self, error: Exception) -> bool:
        _free(error)
        return True  # close the stream


def _future() -> Future[None]:
    future: Future[None] = Future()
    future.set_running_or_notify_cancel()
    return future


def _failed(error: NucleusError) -> Future[None]:
    failed = _future()
    failed.set_exception(error)
    return failed


def _settle(future: Future[None], error: Optional[NucleusError] = None) -> None:
    with suppress(InvalidStateError):  # another thread was first
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)


def _free(error: BaseException) -> None:
    # Its traceback holds the connection in a cycle; the thread would outlive `close`.
    error.__traceback__ = None


def _name(error: Optional[BaseException]) -> str:
    return str(getattr(error, "name", type(error).__name__))
