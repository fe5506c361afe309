"""What is used of the AWS IoT SDK (`awscrt`), as protocols: it is imported when needed."""

from __future__ import annotations

from concurrent.futures import Future
from types import ModuleType
from typing import Callable, NamedTuple, Optional, Protocol, Sequence

from edge_agent.errors import InvalidConfiguration


class Sdk(NamedTuple):
    """The SDK's modules."""

    io: ModuleType
    mqtt5: ModuleType


def load_sdk() -> Sdk:
    """Import the SDK. Raises InvalidConfiguration without it."""
    try:
        from awscrt import io, mqtt5
    except ImportError:
        raise InvalidConfiguration(
            "results.mqtt needs the AWS IoT SDK: pip install awsiotsdk"
        ) from None
    return Sdk(io, mqtt5)


class PublishPacket(Protocol):
    """A message, to be sent or received."""

    topic: str
    payload: Optional[bytes]
    retain: Optional[bool]
    correlation_data_bytes: Optional[bytes]
    message_expiry_interval_sec: Optional[int]


class PubackPacket(Protocol):
    """The broker's acknowledgement of a message with QoS 1."""

    reason_code: int


class PublishCompletion(Protocol):
    """The result of a publish."""

    puback: PubackPacket


class SubackPacket(Protocol):
    """The broker's answer to a subscription."""

    reason_codes: Sequence[Optional[int]]


class ReasonPacket(Protocol):
    """A CONNACK or DISCONNECT: why the broker refuses or ends a connection."""

    reason_code: object
    reason_string: Optional[str]


class PublishReceived(Protocol):
    """The data of a received message's callback."""

    publish_packet: PublishPacket


class ConnectionFailure(Protocol):
    """The data of a failed attempt's callback."""

    exception: BaseException
    connack_packet: Optional[ReasonPacket]


class Disconnection(Protocol):
    """The data of a lost connection's callback."""

    exception: BaseException
    disconnect_packet: Optional[ReasonPacket]


class ClientOptions(Protocol):
    """The options of a client; its callbacks are set by the connection."""

    on_publish_callback_fn: Callable[[PublishReceived], None]
    on_lifecycle_event_connection_success_fn: Callable[[object], None]
    on_lifecycle_event_connection_failure_fn: Callable[[ConnectionFailure], None]
    on_lifecycle_event_disconnection_fn: Callable[[Disconnection], None]
    on_lifecycle_event_stopped_fn: Callable[[object], None]


class MqttClient(Protocol):
    """An MQTT 5 client."""

    def start(self) -> None:
        """Connect, and reconnect until `stop`."""

    def stop(self, disconnect_packet: object = None) -> None:
        """Disconnect."""

    def publish(self, packet: PublishPacket) -> Future[PublishCompletion]:
        """Send a message."""

    def subscribe(self, packet: object) -> Future[SubackPacket]:
        """Send a SUBSCRIBE packet."""
