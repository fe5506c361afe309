"""What a broker's reason codes and the MQTT client's errors mean for a message, and for people.

Sources: MQTT 5.0, 2.4 and 3.4.2.1 (reason codes of PUBACK); names of errors of the AWS IoT SDK.
"""

from __future__ import annotations

import re
from typing import Any, Optional

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
    "SESSION_TAKEN_OVER": (
        " Another client connected with the same client id; set another results.mqtt.client_id."
    ),
}


def name(error: BaseException) -> str:
    """Return the SDK's name of one of its errors; in some of Python's own it is only mentioned."""
    found = _NAME.search(str(error))
    return found.group() if found else type(error).__name__


def after_puback(code: Optional[int], topic: str) -> Optional[Exception]:
    """Return what a PUBACK's reason code means for its message; None: it arrived."""
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
    return SinkUnavailable(f"The broker doesn't take messages now ({reason}, topic {topic!r}).")


def after_error(error: BaseException, topic: str, where: str) -> Exception:
    """Return what the client's error means for the message it was to publish."""
    known = name(error)
    if known in _INVALID:
        return MessageRejected(
            f"A message on {topic!r} can't be published: too large for the broker, or the topic "
            f"isn't valid there ({known})."
        )
    if known == _NOT_ACKNOWLEDGED:
        return NotAnswered(
            f"{where} accepts messages but doesn't acknowledge them (results.mqtt.ack_within_s)."
        )
    if known in _LOST:
        return SinkUnavailable(f"The connection to {where} was lost before the message arrived.")
    return SinkUnavailable(f"The message didn't arrive at {where} ({known}).")


def is_wrong_pin(error: BaseException) -> bool:
    """Tell whether a token refused its PIN (CKR_PIN_INCORRECT, CKR_PIN_LOCKED... of PKCS#11)."""
    return "CKR_PIN" in name(error)


def unusable(error: BaseException) -> str:
    """Tell why no client can be made of the settings."""
    if is_wrong_pin(error):
        return (
            f"The token refuses results.mqtt.pkcs11_pin ({name(error)}). It isn't asked again, so "
            "that it doesn't lock: correct the PIN and restart the agent."
        )
    return f"The MQTT client can't use the settings of results.mqtt: {error}."


def not_connected(where: str, error: Any, connack: Any) -> str:
    """Tell why an attempt to connect failed; `connack`: the broker's answer, if it gave one."""
    if connack is not None:
        return f"The broker {where} refuses the connection{_because(connack)}"
    if name(error) == _NO_ANSWER:
        return f"{where} accepts connections but doesn't answer MQTT's CONNECT. Is it a broker?"
    # With a certificate to show, the SDK's TLS library insists on being asked for it.
    advice = " Does the broker ask for client certificates? If not, set none."
    hint = advice if name(error) == _NO_TLS else ""
    return f"The MQTT client can't connect to {where} ({name(error)}).{hint}"


def lost(where: str, error: Any, disconnect: Any) -> str:
    """Tell why a connection ended; `disconnect`: the broker's last word, if it gave one."""
    if disconnect is not None:
        return f"The broker {where} closed the connection{_because(disconnect)}"
    return f"The connection to {where} was lost ({name(error)}); connecting anew."


def _because(packet: Any) -> str:
    reason = getattr(packet.reason_code, "name", "UNKNOWN")
    said = f", {packet.reason_string!r}" if packet.reason_string else ""
    return f": {reason.replace('_', ' ').lower()}{said}.{_ADVICE.get(reason, '')}"
