"""Results over MQTT 5, with the AWS IoT SDK, to AWS IoT Core or any broker; commands from there.

Translates messages, the device's state and commands to packets; `broker.connection` owns the
connection. Nothing waits here: what isn't acknowledged fails, and the outbox sends it again.
"""

from __future__ import annotations

import json
import logging
import time
from concurrent.futures import Future
from typing import Callable, Optional

from edge_agent import __version__
from edge_agent.config import MqttSettings
from edge_agent.runtime.results import topics
from edge_agent.runtime.results.broker import failures, probe
from edge_agent.runtime.results.broker.connection import Connection
from edge_agent.runtime.results.broker.sdk import (
    PublishCompletion,
    PublishPacket,
    PublishReceived,
    SubackPacket,
    load_sdk,
)
from edge_agent.runtime.results.command_queue import Command, CommandQueue
from edge_agent.runtime.results.sink import Message, MessageRejected

logger = logging.getLogger(__name__)

_QOS_1 = 1


class MqttSink:
    """A connection of the agent's own; implements Sink and CommandSource.

    The retained message on `state_topic` is {"state": "online" or "offline", "thing", "version",
    "reason" for being offline: "stopped", or "connection lost" in the last will}.
    Raises InvalidConfiguration for an endpoint that can't be used, or without the SDK.
    """

    name = "mqtt"
    window = 100
    window_per_model = 100  # one connection keeps the order

    def __init__(self, settings: MqttSettings, thing: str) -> None:
        probe.is_encrypted(settings)  # raises where plain MQTT isn't allowed
        self._settings, self._thing = settings, thing
        self._at_aws = topics.at_aws(str(settings.endpoint))
        self._sdk = load_sdk()
        self._connection = Connection(
            self._sdk,
            settings,
            settings.client_id or thing,
            self._state("offline", "connection lost"),
            self._on_connected,
            self._on_publish,
        )
        self._on_ready: Callable[[], None] = lambda: None
        self._commands: Optional[CommandQueue] = None
        self._command_filter = self._response_topic = ""

    @property
    def problem(self) -> str:
        """Why messages can't be sent, a sentence; "" when connected."""
        return self._connection.problem

    def serve_commands(
        self, topic: str, response_topic: str, answer: Callable[[str, bytes], bytes]
    ) -> None:
        """Subscribe to `topic`/+ whenever connected; see CommandSource."""
        self._command_filter = topic.replace("{thing}", self._thing) + "/+"
        self._response_topic = response_topic.replace("{thing}", self._thing)
        self._commands = CommandQueue(answer, self._publish_answer)

    def start(self, on_ready: Callable[[], None]) -> None:
        """Start to connect; see Sink."""
        self._on_ready = on_ready
        if self._commands:
            self._commands.start()
        self._connection.start()

    def send(self, message: Message) -> Future[None]:
        """Publish `message`; see Sink."""
        topic = message.topic(self._settings.topic, self._thing)
        why = topics.topic_error(topic, self._at_aws)
        if why:
            raise MessageRejected(f"A result can't be published: {why}.")
        qos = self._settings.qos_of_models.get(message.model, self._settings.qos)
        id_property = self._sdk.mqtt5.UserProperty("id", message.id)
        sent = self._connection.publish(
            self._packet(topic, message.body, qos, user_properties=[id_property])
        )
        result: Future[None] = Future()
        result.set_running_or_notify_cancel()  # nobody can cancel it from here on

        def settle(done: Future[PublishCompletion]) -> None:
            problem = self._publish_error(done, topic, qos)
            if problem is None:
                result.set_result(None)
            else:
                result.set_exception(problem)

        sent.add_done_callback(settle)
        return result

    def reset(self) -> None:
        """Drop the connection and connect again; see Sink."""
        self._connection.reset(
            f"{self._connection.where} didn't acknowledge messages in time. Connecting again."
        )

    def stop(self, within_s: float) -> None:
        """Publish "offline" and disconnect; returns in time also if the broker doesn't answer."""
        end = time.monotonic() + within_s
        if self._commands:
            self._commands.stop(within_s / 4)
        if self._connection.connected:
            self._publish_offline((end - time.monotonic()) / 2)
        self._connection.close(max(0.0, end - time.monotonic()))

    def _packet(self, topic: str, body: bytes, qos: int = _QOS_1, **more: object) -> PublishPacket:
        mqtt5 = self._sdk.mqtt5
        packet: PublishPacket = mqtt5.PublishPacket(
            topic=topic, payload=body, qos=mqtt5.QoS(qos), content_type="application/json", **more
        )
        return packet

    def _publish_error(
        self, done: Future[PublishCompletion], topic: str, qos: int = _QOS_1
    ) -> Optional[Exception]:
        """Return why a publish failed; None: it arrived, or with QoS 0 was sent."""
        error = done.exception()
        if error is not None:
            return failures.publish_error(error, topic, self._connection.where)
        return failures.puback_error(done.result().puback.reason_code, topic) if qos else None

    def _on_connected(self) -> None:
        self._publish_online()
        if self._commands:
            self._subscribe()
        self._on_ready()

    # The device's state

    def _state(self, state: str, reason: str = "") -> PublishPacket:
        facts = {"state": state, "thing": self._thing, "version": __version__, "reason": reason}
        body = json.dumps({name: fact for name, fact in facts.items() if fact})
        topic = self._settings.state_topic.replace("{thing}", self._thing)
        return self._packet(topic, body.encode(), retain=True)

    def _publish_online(self) -> None:
        packet = self._state("online")

        def check(done: Future[PublishCompletion]) -> None:
            problem = self._publish_error(done, packet.topic)
            if problem is not None and self._connection.connected:
                logger.warning("The online state of this device can't be published: %s", problem)

        self._connection.publish(packet).add_done_callback(check)

    def _publish_offline(self, within_s: float) -> None:
        try:
            self._connection.publish(self._state("offline", "stopped")).result(within_s)
        except Exception as error:
            logger.warning("The offline state of this device can't be published: %r", error)

    # Commands

    def _subscribe(self) -> None:
        mqtt5 = self._sdk.mqtt5
        subscription = mqtt5.Subscription(
            self._command_filter,
            qos=mqtt5.QoS.AT_LEAST_ONCE,
            # Else the broker hides which commands are retained.
            retain_as_published=not self._at_aws,
        )

        def check(done: Future[SubackPacket]) -> None:
            codes = [] if done.exception() else done.result().reason_codes
            if any(code is None or code >= 0x80 for code in codes):
                logger.warning(
                    "The broker refuses the subscription to %r. No commands can arrive.",
                    self._command_filter,
                )

        self._connection.subscribe(mqtt5.SubscribePacket([subscription])).add_done_callback(check)

    def _on_publish(self, data: PublishReceived) -> None:
        packet = data.publish_packet
        if packet.retain:
            logger.warning("A retained command on %r was ignored.", packet.topic)
        elif self._commands:
            requester = packet.topic.rpartition("/")[2]
            correlation, left_s = packet.correlation_data_bytes, packet.message_expiry_interval_sec
            self._commands.offer(Command(requester, packet.payload or b"", correlation, left_s))

    def _publish_answer(self, command: Command, answer: bytes) -> None:
        topic = f"{self._response_topic}/{command.requester}"
        sent = self._connection.publish(
            self._packet(topic, answer, correlation_data_bytes=command.correlation)
        )
        sent.exception(self._settings.ack_within_s)
        problem = self._publish_error(sent, topic)
        if problem is not None:
            raise problem
