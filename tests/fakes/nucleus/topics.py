"""The fake nucleus's operations on topics: of AWS IoT Core, and local ones."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any, List

from tests.fakes.nucleus.streams import Refused, Streams

LITE_INBOUND_BYTES = 4_900
LITE_IN_FLIGHT = 10  # QoS 1 messages that AWS IoT Core has not acknowledged
LITE_IN_FLIGHT_BYTES = 15_000


@dataclass(frozen=True)
class Published:
    """A message the nucleus took."""

    topic: str
    payload: bytes
    qos: int = 0


class Topics(Streams):
    """Takes messages, in lists in their order, and hands messages out."""

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self.online = True  # the link to AWS IoT Core
        self.acknowledging = True  # AWS IoT Core acknowledges QoS 1
        self.catching_up = 0  # lite refuses so many more messages, in turn with others it takes
        self.published: List[Published] = []  # to AWS IoT Core
        self.published_locally: List[Published] = []
        self._in_flight: List[Published] = []

    def deliver(self, topic: str, payload: bytes) -> None:
        """Hand a message from AWS IoT Core to those who subscribed."""
        if self.kind == "lite" and len(payload) > LITE_INBOUND_BYTES:
            return  # it doesn't say so either
        message = {"topicName": topic}
        if payload or self.kind == "lite":
            message["payload"] = base64.b64encode(payload).decode()
        for subscription in self._subscribed("SubscribeToIoTCore"):
            if subscription.has(topic):
                subscription.event("IoTCoreMessage", message=message)

    def _PublishToIoTCore(self, request: Any) -> None:  # noqa: N802
        payload = base64.b64decode(request["payload"])
        message = Published(request["topicName"], payload, int(request["qos"]))
        self._permit(message.topic)
        spools = self.kind == "classic" and message.qos == 1
        if not (self.online or spools):
            raise Refused("ServiceError")
        if self.kind == "lite" and message.qos == 1:
            self._catch_up()
            self._take_off(message)
        self.published.append(message)

    def _catch_up(self) -> None:
        """Refuse every second message for a while after an outage: too much is on its way."""
        if self.catching_up:
            self.catching_up -= 1
            if self.catching_up % 2:
                raise Refused("ServiceError")

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
        for one in self._subscribed("SubscribeToTopic"):
            if one.has(topic):
                one.event("SubscriptionResponseMessage", binaryMessage=content)

    def _SubscribeToTopic(self, request: Any) -> None:  # noqa: N802
        self._permit(request["topic"])

    def _SubscribeToIoTCore(self, request: Any) -> None:  # noqa: N802
        self._permit(request["topicName"])
        if self.kind == "lite" and not self.online:
            raise Refused("ServiceError")
