"""The connection to the AWS IoT Greengrass nucleus (IPC), classic (Java) and lite (C) alike.

Of an error of awsiot only the class is used: lite's texts don't reach Python. A lost connection is
made again, with the token and, where that is forgotten, with the component's name, which lite
accepts from a process of the component's own systemd unit. `host.reconnection` says when.
"""

from __future__ import annotations

import logging
import threading
import time
from concurrent.futures import Future
from functools import partial
from typing import Callable, Generic, List, Mapping, Optional, Protocol, Tuple, TypeVar

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
    NucleusLost,
    Operation,
    iot_core_message_error,
    message_error,
    translate,
)
from edge_agent.runtime.host.reconnection import Reconnection
from edge_agent.runtime.host.scheduler import Scheduler
from edge_agent.runtime.host.session import (
    CONNECT_WITHIN_S,
    Configuration,
    EventLoop,
    IpcResponse,
    Session,
    fail,
    failed_future,
    finish,
    new_future,
    release_traceback,
)

log = logging.getLogger(__name__)

SOCKET = "AWS_GG_NUCLEUS_DOMAIN_SOCKET_FILEPATH_FOR_COMPONENT"
TOKEN = "SVCUID"
ITS_OWN = "this component"

Result = TypeVar("Result")
Event = TypeVar("Event", contravariant=True)


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


def available(environment: Mapping[str, str]) -> bool:
    """Whether a nucleus has started this process."""
    return bool(environment.get(SOCKET))


class Greengrass:
    """Owns the connection and its threads; every method may be called on any other thread.

    The futures end with the result or a NucleusError, on the connection's thread; they can't be
    cancelled. Callbacks on that thread must not wait. Subscriptions call `on_end` when the nucleus
    has refused or ended them, or is lost; `host.subscription` makes them again.
    """

    def __init__(
        self,
        environment: Mapping[str, str],
        on_refused: Callable[[str], None],
        component: str = "",
        connect_within_s: float = CONNECT_WITHIN_S,
    ) -> None:
        """Take socket and token from the component's environment; `component`: its name, if known.

        `on_refused` is called once, on the scheduler's thread, with the reason why the nucleus
        doesn't take the component back; the process should then exit with an error, to be started
        again with a new token.
        """
        self._path, token = environment[SOCKET], environment.get(TOKEN, "")
        self._on_refused, self._connect_within_s = on_refused, connect_within_s
        self._reconnection = Reconnection(self._path, token, component)
        self.scheduler = Scheduler("nucleus")
        self._lock = threading.Lock()  # of the next six
        self._begun = self._open = self._closed = False
        self._session: Optional[Session] = None
        self._connected: Future[None] = new_future()  # of the attempt under way, or the last one
        self._on_open: List[Callable[[], None]] = []
        self._loop: Optional[EventLoop] = None

    @property
    def problem(self) -> str:
        """Why there is no connection, a sentence; "" while there is one."""
        return self._reconnection.problem

    def connect(self) -> Future[None]:
        """Start to connect, the first time, and return at once.

        Return the future of the attempt under way; it fails with NucleusLost, and the next attempt
        follows by itself.
        """
        with self._lock:
            if self._closed:
                return failed_future(NucleusLost("The connection to the nucleus was closed."))
            begun, self._begun = self._begun, True
        if not begun:
            self.scheduler.schedule(self._attempt)
        return self._connected

    def when_connected(self, act: Callable[[], None]) -> None:
        """Call `act` at once if there is a connection, and whenever it was made again.

        It must not wait.
        """
        with self._lock:
            self._on_open.append(act)
            is_open = self._open
        if is_open:
            act()

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
        """Disconnect and end the threads; not to be called on them."""
        with self._lock:
            self._closed = True
            session, self._session = self._session, None
        self.scheduler.close(within_s)
        if session is not None:
            session.close(within_s)
        fail(self._connected, self._no_connection())
        del session  # the last reference: without one the event loop's thread ends
        loop, self._loop = self._loop, None
        if loop is not None:
            ended = loop.ended
            del loop
            ended.wait(within_s)

    def _attempt(self) -> None:
        if self._connected.done():
            self._connected = new_future()
        self._introduce()

    def _introduce(self) -> None:
        self._loop = self._loop or EventLoop()
        session = Session(
            self._reconnection.identity,
            lambda session: self.scheduler.schedule(partial(self._opened, session)),
            lambda session, reason: self.scheduler.schedule(partial(self._ended, session, reason)),
        )
        with self._lock:
            if self._closed:
                return
            self._session = session
        session.start(self._path, self._loop, self._connect_within_s)

    def _opened(self, session: Session) -> None:
        with self._lock:
            if session is not self._session or not session.is_open:
                return
            acts, self._open = list(self._on_open), True
        self._reconnection.connected(time.monotonic())
        finish(self._connected, None)
        for act in acts:
            act()

    def _ended(self, session: Session, reason: str) -> None:
        with self._lock:
            if session is not self._session:
                return
            self._session, self._open = None, False
        next_try = self._reconnection.failed(reason, session.was_refused, time.monotonic())
        if next_try.at_once:
            self._introduce()
            return
        fail(self._connected, self._no_connection())
        if next_try.gives_up:
            self._on_refused(self.problem)
        else:
            self.scheduler.schedule(self._attempt, next_try.after_s)

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

        session = self._session
        try:
            call = getattr(session and session.client, operation.factory)(*handler)
            call.activate(getattr(model, f"{operation.name}Request")(**request))
        except Exception:  # not connected; each layer has its own class for it
            return failed_future(self._no_connection())
        call.get_response().add_done_callback(answered)
        return ended

    def _no_connection(self) -> NucleusLost:
        return NucleusLost(self.problem or "There is no connection to the nucleus at present.")


class SubscriptionHandler(Generic[Event]):
    """Receives the events of a subscription."""

    def __init__(self, on_event: Callable[[Event], None], on_end: Callable[[], None]) -> None:
        self.on_stream_event = on_event
        self.on_stream_closed = on_end

    def on_stream_error(self, error: Exception) -> bool:
        """Close the stream."""
        release_traceback(error)
        return True
