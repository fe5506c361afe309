"""The connection to the AWS IoT Greengrass nucleus (IPC), classic (Java) and lite (C) alike.

The one module that uses awsiot, which it imports when it connects. Of an error only the class is
used: lite's texts don't reach Python. A lost connection isn't made again: a nucleus that has
restarted doesn't know the token any more, so that only a restart of the component helps.
"""

from __future__ import annotations

import logging
import threading
from concurrent.futures import Future, InvalidStateError, wait
from contextlib import suppress
from typing import Callable, Dict, Generic, List, Mapping, Optional, Protocol, Tuple, TypeVar

from typing_extensions import Literal

from edge_agent.runtime.host.nucleus import (
    DEFER_UPDATE,
    GET_CONFIGURATION,
    PUBLISH,
    PUBLISH_LOCALLY,
    PUT_METRICS,
    SUBSCRIBE,
    SUBSCRIBE_TO_CONFIGURATION,
    SUBSCRIBE_TO_UPDATES,
    UPDATE_STATE,
    NotAccepted,
    NucleusError,
    NucleusLost,
    Operation,
    iot_core_message_error,
    message_error,
    translate,
)

log = logging.getLogger(__name__)

SOCKET = "AWS_GG_NUCLEUS_DOMAIN_SOCKET_FILEPATH_FOR_COMPONENT"
TOKEN = "SVCUID"
CONNECT_WITHIN_S = 10.0
ITS_OWN = "this component"

Result = TypeVar("Result")
Event = TypeVar("Event", contravariant=True)
Configuration = Dict[str, object]


class IotCoreMessage(Protocol):
    """A message from AWS IoT Core."""

    topic_name: str
    payload: Optional[bytes]


class IotCoreEvent(Protocol):
    """The arrival of a message from AWS IoT Core."""

    message: IotCoreMessage


class DeploymentEvent(Protocol):
    """What happens to a deployment."""

    deployment_id: Optional[str]


class UpdateEvent(Protocol):
    """A deployment wants to change components, or has done so; one of both is None."""

    pre_update_event: Optional[DeploymentEvent]
    post_update_event: Optional[DeploymentEvent]


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


def available(environment: Mapping[str, str]) -> bool:
    """Whether a nucleus has started this process."""
    return bool(environment.get(SOCKET))


class Greengrass:
    """Owns the connection and its one thread; every method may be called on any other thread.

    The futures end with the result or a NucleusError, on the connection's thread; they can't be
    cancelled. Callbacks on that thread must not wait. Subscriptions call `on_end` when the nucleus
    has refused or ended them, or is lost.
    """

    def __init__(
        self,
        environment: Mapping[str, str],
        on_lost: Callable[[str], None],
        connect_within_s: float = CONNECT_WITHIN_S,
    ) -> None:
        """Take socket and token from the component's environment.

        `on_lost` is called once, on any thread, with the reason why there is no connection any
        more or none could be made; the process should then exit with an error, to be restarted.
        """
        self._path, self._token = environment[SOCKET], environment.get(TOKEN, "")
        self._on_lost = on_lost
        self._lock = threading.Lock()
        self._why_lost = ""
        self._connected: Future[None] = new_future()
        self._client: Optional[IpcClient] = None
        self._loop_ended = threading.Event()
        self._limit = threading.Timer(
            connect_within_s, self._lose, [f"no answer within {connect_within_s:g} s"]
        )
        self._limit.daemon = True

    def connect(self) -> Future[None]:
        """Start to connect, the first time, and return at once; fails with NucleusLost."""
        with self._lock:
            if self._why_lost:
                return failed_future(NucleusLost(self._why_lost))
            if self._client is not None:
                return self._connected
            connection = self._connection()
        self._limit.start()
        try:
            attempt = connection.connect(ConnectionLifecycle(self._lose))
        except Exception as error:  # a path that can't be one; the class varies
            self._lose(error_name(error))
        else:
            attempt.add_done_callback(self._attempted)
        return self._connected

    def publish(self, topic: str, payload: bytes, qos: int) -> Future[None]:
        """Publish to AWS IoT Core; done when the nucleus has accepted the message.

        Classic has then put it into its spooler; lite has sent it, and repeats it (QoS 1) while
        its process lives. Lite accepts at most 10 messages and 15,000 bytes that AWS IoT Core has
        not acknowledged, beyond that NucleusBusy.
        """
        request = {"topic_name": topic, "qos": str(qos), "payload": payload}
        return self._call(PUBLISH, topic, request, iot_core_message_error(topic, payload))

    def publish_locally(self, topic: str, payload: bytes) -> Future[None]:
        """Publish to the device's components, as a binary message, which keeps the bytes.

        As a JSON message lite would refuse some events (lists of 200 elements and more).
        """
        from awsiot.greengrasscoreipc import model

        message = model.PublishMessage(binary_message=model.BinaryMessage(message=payload))
        request = {"topic": topic, "publish_message": message}
        return self._call(PUBLISH_LOCALLY, topic, request, message_error(topic, payload))

    def subscribe(
        self,
        topic_filter: str,
        on_message: Callable[[str, bytes], None],
        on_end: Callable[[], None],
    ) -> Future[None]:
        """Receive from AWS IoT Core, but retained messages, until the connection is closed.

        `on_message(topic, payload)` is called on the connection's thread. Lite drops messages over
        about 4,900 bytes.
        """

        def receive(event: IotCoreEvent) -> None:
            message = event.message
            if getattr(message, "retain", None):  # SDKs of 2022 lack it
                log.warning("A retained message on %.300r was ignored.", message.topic_name)
            else:
                on_message(message.topic_name, message.payload or b"")

        request = {"topic_name": topic_filter, "qos": "1"}
        return self._call(
            SUBSCRIBE, topic_filter, request, "", SubscriptionHandler(receive, on_end)
        )

    def get_configuration(self) -> Future[Configuration]:
        """Read the component's own whole configuration; NotThere when it has none."""
        return self._request(GET_CONFIGURATION, ITS_OWN, {}, lambda response: response.value or {})

    def subscribe_to_configuration(
        self, on_change: Callable[[], None], on_end: Callable[[], None]
    ) -> Future[None]:
        """Receive an event for every change of the component's own configuration.

        `on_change` is called on the connection's thread, in bursts: once for each value, in no
        order, perhaps before the value can be read.
        """
        handler = SubscriptionHandler[object](lambda _event: on_change(), on_end)
        return self._call(SUBSCRIBE_TO_CONFIGURATION, ITS_OWN, {}, "", handler)

    def subscribe_to_updates(
        self,
        on_ask: Callable[[str], None],
        on_done: Callable[[str], None],
        on_end: Callable[[], None],
    ) -> Future[None]:
        """Receive an event when a deployment wants to change components; not on lite (NucleusBusy).

        `on_ask(deployment)` and, after it was completed or cancelled, `on_done(deployment)` are
        called on the connection's thread. What isn't answered by `defer_update` in time goes
        ahead. The deployment is "" when it can't be deferred.
        """

        def receive(event: UpdateEvent) -> None:
            if event.pre_update_event is not None:
                on_ask(event.pre_update_event.deployment_id or "")
            elif event.post_update_event is not None:
                on_done(event.post_update_event.deployment_id or "")

        return self._call(
            SUBSCRIBE_TO_UPDATES, ITS_OWN, {}, "", SubscriptionHandler(receive, on_end)
        )

    def defer_update(self, deployment: str, recheck_after_ms: int, why: str) -> Future[None]:
        """Make a deployment wait, the nucleus then asks again; 0: it may go ahead.

        NucleusBusy when the answer comes too late.
        """
        request = {
            "deployment_id": deployment, "recheck_after_ms": recheck_after_ms, "message": why,
        }  # fmt: skip
        return self._call(DEFER_UPDATE, deployment, request)

    def put_metrics(self, metrics: List[Tuple[str, str, float]]) -> Future[None]:
        """Add (name, unit, value) to the nucleus's sums; names have at most 32 bytes.

        Classic allows it to components whose name begins with "aws."; lite to none (NucleusBusy).
        """
        from awsiot.greengrasscoreipc import model

        listed = [model.Metric(name=name, unit=unit, value=value) for name, unit, value in metrics]
        return self._call(PUT_METRICS, "*", {"metrics": listed})

    def update_state(self, state: Literal["RUNNING", "ERRORED"]) -> Future[None]:
        """Report the component's state to the nucleus."""
        return self._call(UPDATE_STATE, state, {"state": state})

    def close(self, within_s: float = 2.0) -> None:
        """Disconnect and end the thread; not to be called on it."""
        with self._lock:
            client, self._client = self._client, None
            self._why_lost = self._why_lost or "The connection to the nucleus was closed."
        self._limit.cancel()
        if client is None:
            return
        wait([client.close()], within_s)
        fail(self._connected, NucleusLost(self._why_lost))
        del client  # the last reference: without one the connection's thread ends
        self._loop_ended.wait(within_s)

    def _connection(self) -> IpcConnection:
        """Make the connection; awsiot's own `connect` waits, and leaks what isn't answered."""
        from awscrt import io
        from awsiot import eventstreamrpc
        from awsiot.greengrasscoreipc.client import GreengrassCoreIPCClient

        loop = io.EventLoopGroup(1)
        self._loop_ended = loop.shutdown_event
        options = io.SocketOptions()
        options.domain = io.SocketDomain.Local
        amender = eventstreamrpc.MessageAmendment.create_static_authtoken_amender(self._token)
        connection: IpcConnection = eventstreamrpc.Connection(
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
            self._lose(error_name(error))
        else:
            self._limit.cancel()
            finish(self._connected, None)

    def _lose(self, reason: str) -> None:
        self._limit.cancel()
        with self._lock:
            if self._why_lost:
                return
            self._why_lost = (
                f"There is no connection to the Greengrass nucleus at {self._path} ({reason}). It "
                f"isn't running, has restarted, or doesn't know the token in {TOKEN}. "
                "The nucleus must restart the component."
            )
        fail(self._connected, NucleusLost(self._why_lost))
        self._on_lost(self._why_lost)

    def _call(
        self,
        operation: Operation,
        resource: str,
        request: Mapping[str, object],
        error: str = "",
        *handler: object,
    ) -> Future[None]:
        """Send a request whose response says nothing; `error`: why it would never be accepted."""
        if error:
            return failed_future(NotAccepted(error))
        return self._request(operation, resource, request, lambda _response: None, *handler)

    def _request(
        self,
        operation: Operation,
        resource: str,
        request: Mapping[str, object],
        read: Callable[[IpcResponse], Result],
        *handler: object,
    ) -> Future[Result]:
        from awsiot.greengrasscoreipc import model

        ended: Future[Result] = new_future()

        def answered(response: Future[IpcResponse]) -> None:
            error = response.exception()
            if error is None:
                finish(ended, read(response.result()))
            elif type(error).__name__ == "StreamClosedError":
                fail(ended, self._no_connection())
            else:
                release_traceback(error)
                fail(ended, translate(error, operation, resource))

        try:
            call = getattr(self._client, operation.factory)(*handler)
            call.activate(getattr(model, f"{operation.name}Request")(**request))
        except Exception:  # not connected; each layer has its own class for it
            return failed_future(self._no_connection())
        call.get_response().add_done_callback(answered)
        return ended

    def _no_connection(self) -> NucleusLost:
        return NucleusLost(self._why_lost or "There is no connection to the nucleus at present.")


# What awsiot calls back on the connection's thread, and the futures that callers get instead


class ConnectionLifecycle:
    """Receives the events of the connection."""

    def __init__(self, lose: Callable[[str], None]) -> None:
        self._lose = lose

    def on_connect(self) -> None:
        """Do nothing: the future of the attempt ends."""

    def on_disconnect(self, reason: Optional[Exception]) -> None:
        """Report that the connection has ended."""
        self._lose(error_name(reason))

    def on_error(self, _error: Exception) -> bool:
        """Disconnect."""
        return True

    def on_ping(self, _headers: object, _payload: bytes) -> None:
        """Do nothing."""


class SubscriptionHandler(Generic[Event]):
    """Receives the events of a subscription."""

    def __init__(self, on_event: Callable[[Event], None], on_end: Callable[[], None]) -> None:
        self.on_stream_event = on_event
        self.on_stream_closed = on_end

    def on_stream_error(self, error: Exception) -> bool:
        """Close the stream."""
        release_traceback(error)
        return True


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
