"""A fake of the Greengrass nucleus's IPC server, for tests: no real nucleus can run there.

It is written from the documented wire protocol and from what was observed of, or read in the
sources of, the two nuclei: "classic" (Java), which spools what AWS IoT Core can't take now, and
"lite" (C), which doesn't and has narrow limits. What they do beyond that it can't show: a release
is to be tried on both.
"""

from __future__ import annotations

import base64
import json
import socket
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Callable, Dict, List, Optional, Set

from typing_extensions import Literal

from tests.host.frames import Frame, Header, decode, encode, size_of

MESSAGE, ERROR, CONNECT, CONNECT_ACK = 0, 1, 4, 5
ACCEPTED, TERMINATE = 1, 2
LITE_FRAME_BYTES = 10_000
LITE_INBOUND_BYTES = 4_900
LITE_IN_FLIGHT = 10  # QoS 1 messages that AWS IoT Core has not acknowledged
LITE_IN_FLIGHT_BYTES = 15_000


class Refused(Exception):
    """The answer is an error; the text is the name of its class."""


@dataclass(frozen=True)
class Published:
    """A message the nucleus took."""

    topic: str
    payload: bytes
    qos: int = 0


@dataclass(frozen=True)
class Subscription:
    """A stream on which events go to a component."""

    connection: Connection
    stream: int
    operation: str
    filter: str

    def has(self, topic: str) -> bool:
        levels, wanted = topic.split("/"), self.filter.split("/")
        return len(levels) == len(wanted) and all(
            want in ("+", level) for want, level in zip(wanted, levels)
        )


class FakeNucleus:
    """Listens on `path` while its context is open; what it took lies in its lists, in order."""

    def __init__(self, path: Path, kind: Literal["classic", "lite"] = "lite") -> None:
        self.path, self.kind = path, kind
        self.token = "0123456789ABCDEF"
        self.silent = False  # accepts connections and says nothing
        self.answering = True  # does what is asked and doesn't say so
        self.online = True  # its link to AWS IoT Core
        self.acknowledging = True  # AWS IoT Core acknowledges QoS 1
        self.permitted: Optional[Set[str]] = None  # topics of all operations; None: any
        self.published: List[Published] = []  # to AWS IoT Core
        self.published_locally: List[Published] = []
        self.states: List[str] = []
        self.subscriptions: List[Subscription] = []
        self.refusals = 0
        self.largest_frame = 0
        self._in_flight: List[Published] = []
        self._changed = threading.Condition()  # guards all of the above
        self._connections: List[Connection] = []
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._thread = threading.Thread(target=self._accept)

    @property
    def environment(self) -> Dict[str, str]:
        """What a component finds in its environment."""
        return {
            "AWS_GG_NUCLEUS_DOMAIN_SOCKET_FILEPATH_FOR_COMPONENT": str(self.path),
            "SVCUID": self.token,
        }

    def __enter__(self) -> FakeNucleus:
        self._listener.bind(str(self.path))
        self._listener.listen()
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)  # ends accept()
        self._thread.join()
        self._listener.close()
        self.drop()
        for connection in self._connections:
            connection.thread.join()

    def until(self, condition: Callable[[], bool], within_s: float = 20.0) -> None:
        """Wait until something is so."""
        with self._changed:
            assert self._changed.wait_for(condition, within_s), "it hasn't happened in time"

    def drop(self) -> None:
        """Close the connections and forget the token, as with a restart."""
        self.token = "a new one"
        for connection in self._connections:
            connection.close()

    def connections(self) -> int:
        """Count those open."""
        return sum(not connection.closed for connection in self._connections)

    def deliver(self, topic: str, payload: bytes) -> None:
        """Hand a message from AWS IoT Core to those who subscribed."""
        if self.kind == "lite" and len(payload) > LITE_INBOUND_BYTES:
            return  # it doesn't say so either
        message = {"topicName": topic}
        if payload or self.kind == "lite":
            message["payload"] = base64.b64encode(payload).decode()
        for subscription in self._subscribed("SubscribeToIoTCore", topic):
            subscription.connection.event(subscription.stream, "IoTCoreMessage", message=message)

    def end_subscriptions(self) -> None:
        """End every subscription by an error."""
        with self._changed:
            ended, self.subscriptions = self.subscriptions, []
        for subscription in ended:
            subscription.connection.refuse(subscription.stream, "ServiceError")

    def connected(self, connection: Connection, token: str) -> bool:
        """Accept a connection, or refuse it as the kind does."""
        right = token == self.token
        if not self.silent and (right or self.kind == "classic"):
            connection.send(CONNECT_ACK, ACCEPTED if right else 0, 0)
        return right or self.kind == "classic"

    def asked(self, connection: Connection, stream: int, operation: str, request: Any) -> None:
        """Do what is asked, and answer."""
        handler = getattr(self, f"_{operation}", _not_offered)
        try:
            with self._changed:
                handler(request)
                if operation.startswith("SubscribeTo"):
                    topic = request.get("topic") or request["topicName"]
                    self.subscriptions.append(Subscription(connection, stream, operation, topic))
                if self.answering:
                    connection.event(stream, f"{operation}Response")
                self._changed.notify_all()
        except Refused as refusal:
            connection.refuse(stream, str(refusal))
            with self._changed:
                self.refusals += 1
                self._changed.notify_all()

    def ended(self, connection: Connection, stream: Optional[int] = None) -> None:
        """Forget the subscription of a stream, or all of a connection."""
        with self._changed:
            self.subscriptions = [
                one for one in self.subscriptions
                if one.connection is not connection or stream not in (None, one.stream)
            ]  # fmt: skip
            self._changed.notify_all()

    def _PublishToIoTCore(self, request: Any) -> None:  # noqa: N802
        payload = base64.b64decode(request["payload"])
        message = Published(request["topicName"], payload, int(request["qos"]))
        self._permit(message.topic)
        spools = self.kind == "classic" and message.qos == 1
        if not (self.online or spools):
            raise Refused("ServiceError")
        if self.kind == "lite" and message.qos == 1:
            self._take_off(message)
        self.published.append(message)

    def _take_off(self, message: Published) -> None:
        """Lite answers once a message is sent; only so many may be without acknowledgement."""
        self._in_flight = [] if self.acknowledging else [*self._in_flight, message]
        size = sum(len(one.payload) for one in self._in_flight)
        if len(self._in_flight) > LITE_IN_FLIGHT or size > LITE_IN_FLIGHT_BYTES:
            self._in_flight.pop()
            raise Refused("ServiceError")

    def _PublishToTopic(self, request: Any) -> None:  # noqa: N802
        topic = request["topic"]
        if self.kind == "classic" and set(topic) & set("+#*"):
            raise Refused("InvalidArgumentsError")
        self._permit(topic)
        payload = base64.b64decode(request["publishMessage"]["binaryMessage"]["message"])
        self.published_locally.append(Published(topic, payload))
        content = {**request["publishMessage"]["binaryMessage"], "context": {"topic": topic}}
        for one in self._subscribed("SubscribeToTopic", topic):
            one.connection.event(one.stream, "SubscriptionResponseMessage", binaryMessage=content)

    def _SubscribeToTopic(self, request: Any) -> None:  # noqa: N802
        self._permit(request["topic"])

    def _SubscribeToIoTCore(self, request: Any) -> None:  # noqa: N802
        self._permit(request["topicName"])
        if self.kind == "lite" and not self.online:
            raise Refused("ServiceError")

    def _UpdateState(self, request: Any) -> None:  # noqa: N802
        self.states.append(request["state"])

    def _permit(self, topic: str) -> None:
        if self.permitted is not None and topic not in self.permitted:
            raise Refused("UnauthorizedError")

    def _subscribed(self, operation: str, topic: str) -> List[Subscription]:
        with self._changed:
            return [
                one for one in self.subscriptions if one.operation == operation and one.has(topic)
            ]

    def _accept(self) -> None:
        with suppress(OSError):  # the end
            while True:
                accepted, _address = self._listener.accept()
                connection = Connection(self, accepted)
                self._connections.append(connection)
                connection.thread.start()


class Connection:
    """One component's connection, and the thread that reads it."""

    def __init__(self, nucleus: FakeNucleus, accepted: socket.socket) -> None:
        self._nucleus, self._socket = nucleus, accepted
        self._sending = threading.Lock()
        self.closed = False
        self.thread = threading.Thread(target=self._serve)

    def close(self) -> None:
        with suppress(OSError):  # it is closed already
            self._socket.shutdown(socket.SHUT_RDWR)

    def event(self, stream: int, model: str, **content: Any) -> None:
        """Send a response or an event; lite silently leaves out what is too large."""
        self.send(MESSAGE, 0, stream, model, content)

    def refuse(self, stream: int, model: str) -> None:
        """Send an error; its text in lite's way, which clients can't read."""
        self.send(ERROR, TERMINATE, stream, model, {"_message": "it isn't told"})

    def send(
        self, kind: int, flags: int, stream: int, model: str = "", content: Any = None
    ) -> None:
        headers: Dict[str, Header] = {
            ":message-type": kind, ":message-flags": flags, ":stream-id": stream,
        }  # fmt: skip
        if model:
            headers[":content-type"] = "application/json"
            headers["service-model-type"] = f"aws.greengrass#{model}"
        frame = encode(headers, b"" if content is None else json.dumps(content).encode())
        if self._nucleus.kind == "lite" and len(frame) > LITE_FRAME_BYTES:
            return
        with self._sending, suppress(OSError):  # the component has gone
            self._socket.sendall(frame)

    def _serve(self) -> None:
        with self._socket, self._socket.makefile("rb") as stream, suppress(OSError, EOFError):
            while self._take(*self._read(stream)):
                pass
        self.closed = True
        self._nucleus.ended(self)

    def _take(self, headers: Dict[str, Any], payload: bytes) -> bool:
        """Handle a frame; False when the connection is to be closed."""
        if headers[":message-type"] == CONNECT:
            return self._nucleus.connected(self, json.loads(payload)["authToken"])
        stream = headers[":stream-id"]
        if headers[":message-flags"] & TERMINATE:
            self._nucleus.ended(self, stream)
        else:
            operation = headers["operation"].partition("#")[2]
            assert headers["service-model-type"] == f"aws.greengrass#{operation}Request"
            self._nucleus.asked(self, stream, operation, json.loads(payload))
        return True

    def _read(self, stream: BinaryIO) -> Frame:
        start = stream.read(4)
        size = size_of(start)
        self._nucleus.largest_frame = max(self._nucleus.largest_frame, size)
        if self._nucleus.kind == "lite" and size > LITE_FRAME_BYTES:
            raise EOFError
        return decode(start + stream.read(size - 4))


def _not_offered(_request: Any) -> None:
    raise Refused("ServiceError")  # the connection stays usable
