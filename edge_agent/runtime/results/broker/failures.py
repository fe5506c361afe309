"""A broker's reason codes and the MQTT client's errors → errors of a sink, and sentences.

Sources: MQTT 5.0, 2.4 and 3.4.2.1 (reason codes of PUBACK); names of errors of the AWS IoT SDK.
"""

from __future__ import annotations

import re
from typing import Optional

from edge_agent.runtime.results.broker.sdk import ReasonPacket
from edge_agent.runtime.results.sink import (
    MessageRefused,
    MessageRejected,
    NotAnswered,
    SinkUnavailable,
)

_ACCEPTED = (0x00, 0x10)  # success; no matching subscribers
_NOT_AUTHORIZED = 0x87
_OF_THE_MESSAGE = {0x90: "topic name invalid", 0x99: "payload format invalid"}
# The SDK's own checks: topics, and the limits that the broker announced when it let us in.
_INVALID = ("AWS_ERROR_MQTT5_PACKET_VALIDATION", "AWS_ERROR_MQTT5_PUBLISH_OPTIONS_VALIDATION")
_NOT_ACKNOWLEDGED = "AWS_ERROR_MQTT_TIMEOUT"
_NO_ANSWER = "AWS_ERROR_MQTT5_CONNACK_TIMEOUT"
_NO_TLS = "AWS_IO_TLS_ERROR_NEGOTIATION_FAILURE"
_LOST = (
    "AWS_ERROR_MQTT5_OPERATION_FAILED_DUE_TO_OFFLINE_QUEUE_POLICY",
    "AWS_ERROR_MQTT5_USER_REQUESTED_STOP",
)
_NAME = re.compile(r"AWS_\w+")

_ADVICE = {
    "CLIENT_IDENTIFIER_NOT_VALID": " Check results.mqtt.client_id and what the broker allows.",
    "NOT_AUTHORIZED": (
        " The broker's policy must let this client connect, publish and subscribe on the topics of "
        "results, and retain on results.mqtt.state_topic (AWS IoT: also iot:RetainPublish)."
    ),
}


def name(error: BaseException) -> str:
    """Return the SDK's name of one of its errors; in some of Python's own it is only mentioned."""
    found = _NAME.search(str(error))
    return found.group() if found else type(error).__name__


def puback_error(code: Optional[int], topic: str) -> Optional[Exception]:
    """Return the error that a PUBACK's reason code stands for; None: the message arrived."""
    if code in _ACCEPTED:
        return None
    if code == _NOT_AUTHORIZED:
        return MessageRefused(
            f"The broker refuses the topic {topic!r} (not authorized). Its policy must let this "
            "client publish there."
        )
    if code in _OF_THE_MESSAGE:
        return MessageRejected(
            f"The broker rejects a message on {topic!r}: {_OF_THE_MESSAGE[code]}."
        )
    reason = "an unknown reason" if code is None else f"reason 0x{code:02x}"
    return SinkUnavailable(f"The broker doesn't accept messages now ({reason}, topic {topic!r}).")


def publish_error(error: BaseException, topic: str, where: str) -> Exception:
    """Return the error for a message that the client couldn't publish."""
    known = name(error)
    if known in _INVALID:
        return MessageRejected(
            f"A message on {topic!r} can't be published: it is too large for the broker, or the "
            f"topic isn't valid ({known})."
        )
    if known == _NOT_ACKNOWLEDGED:
        return NotAnswered(
            f"{where} doesn't acknowledge messages in time (results.mqtt.ack_within_s)."
        )
    if known in _LOST:
        return SinkUnavailable(f"The connection to {where} was lost before the message arrived.")
    return SinkUnavailable(f"The message didn't arrive at {where} ({known}).")


def is_wrong_pin(error: BaseException) -> bool:
    """Whether a token refused its PIN (CKR_PIN_INCORRECT, CKR_PIN_LOCKED... of PKCS#11)."""
    return "CKR_PIN" in name(error)


def settings_error(error: BaseException) -> str:
    """Say why no client can be made with the settings."""
    if is_wrong_pin(error):
        return (
            f"The token refuses results.mqtt.pkcs11_pin ({name(error)}). It isn't tried again, "
            "because the token could lock. Correct the PIN and restart the agent."
        )
    return f"The MQTT client can't use the settings of results.mqtt: {error}."


def connect_error(where: str, error: BaseException, connack: Optional[ReasonPacket]) -> str:
    """Say why an attempt to connect failed; `connack`: the broker's answer, if there was one."""
    if connack is not None:
        return f"The broker {where} refuses the connection{_because(connack)}"
    if name(error) == _NO_ANSWER:
        return (
            f"{where} accepts connections but doesn't answer MQTT's CONNECT. Is it an MQTT broker?"
        )
    # With a client certificate, the SDK's TLS library fails when the broker doesn't ask for it.
    advice = " Does the broker ask for client certificates? If not, set none."
    hint = advice if name(error) == _NO_TLS else ""
    return f"The MQTT client can't connect to {where} ({name(error)}).{hint}"


def is_taken_over(disconnect: Optional[ReasonPacket]) -> bool:
    """Whether the broker says that another client has connected by the same name."""
    return disconnect is not None and _reason(disconnect) == "SESSION_TAKEN_OVER"


def is_about_the_name(connack: Optional[ReasonPacket]) -> bool:
    """Whether the broker might let a client with another client id connect."""
    refusals = ("NOT_AUTHORIZED", "CLIENT_IDENTIFIER_NOT_VALID")
    return connack is not None and _reason(connack) in refusals


def is_hangup(error: BaseException, disconnect: Optional[ReasonPacket]) -> bool:
    """Whether the broker ended a connection and gave no reason, as mosquitto 2.0 does then."""
    return disconnect is None and "TIMEOUT" not in name(error)


def taken_over(where: str, client_id: str, is_certain: bool) -> str:
    """Say that two clients end each other's connections."""
    cause = (
        f"Another client connected with the same client id, and the broker {where} then ended this "
        "connection:"
        if is_certain
        else f"The broker {where} accepts each connection and soon ends it without a reason. "
        "Probably"
    )
    return (
        f"{cause} another client connects as {client_id!r}, and each ends the connection of the "
        "other. Set another results.mqtt.client_id on one of the devices."
    )


def disconnect_error(where: str, error: BaseException, disconnect: Optional[ReasonPacket]) -> str:
    """Say why a connection ended; `disconnect`: the broker's reason, if it gave one."""
    if disconnect is not None:
        return f"The broker {where} closed the connection{_because(disconnect)}"
    return f"The connection to {where} was lost ({name(error)}). Connecting again."


def _because(packet: ReasonPacket) -> str:
    reason = _reason(packet)
    said = f", {packet.reason_string!r}" if packet.reason_string else ""
    return f": {reason.replace('_', ' ').lower()}{said}.{_ADVICE.get(reason, '')}"


def _reason(packet: ReasonPacket) -> str:
    return str(getattr(packet.reason_code, "name", "UNKNOWN"))
