"""The operations of the nucleus, its limits, and its errors as sentences of our own.

Of an error of awsiot only the class is used: lite's texts don't reach Python.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Dict, Tuple, Type

EXIT_STATUS = 1  # without the nucleus, which then restarts the component with a new token
MOST_PAYLOAD_BYTES = 7000
MOST_SLASHES = 7  # AWS IoT Core disconnects the whole device on more
MOST_TOPIC_BYTES = 256  # of AWS IoT Core and of lite's local publish/subscribe
# Lite closes the connection on a frame over 10,000 bytes; about 270 are not topic or payload.
MOST_VARIABLE_BYTES = 9700


class NucleusError(Exception):
    """Base of all; the sentence says what to do."""


class NucleusBusy(NucleusError):
    """Not possible now: the nucleus is offline, has too much in flight or doesn't offer it."""


class NotAuthorized(NucleusError):
    """The component's accessControl lacks a policy."""


class NotAccepted(NucleusError):
    """The request is wrong, whenever it is sent."""


class NotFound(NucleusError):
    """The resource doesn't exist."""


class NucleusLost(NucleusError):
    """There is no connection (yet)."""


@dataclass(frozen=True)
class Operation:
    """An operation's name, the client's method that makes it, the service of its policy."""

    name: str
    factory: str
    service: str


PUBLISH = Operation("PublishToIoTCore", "new_publish_to_iot_core", "aws.greengrass.ipc.mqttproxy")
SUBSCRIBE = Operation(
    "SubscribeToIoTCore", "new_subscribe_to_iot_core", "aws.greengrass.ipc.mqttproxy"
)
PUBLISH_LOCALLY = Operation("PublishToTopic", "new_publish_to_topic", "aws.greengrass.ipc.pubsub")
PUT_METRICS = Operation(
    "PutComponentMetric", "new_put_component_metric", "aws.greengrass.ipc.componentmetric"
)
# These need no policy.
UPDATE_STATE = Operation("UpdateState", "new_update_state", "")
GET_CONFIGURATION = Operation("GetConfiguration", "new_get_configuration", "")
SUBSCRIBE_TO_CONFIGURATION = Operation(
    "SubscribeToConfigurationUpdate", "new_subscribe_to_configuration_update", ""
)
SUBSCRIBE_TO_UPDATES = Operation(
    "SubscribeToComponentUpdates", "new_subscribe_to_component_updates", ""
)
DEFER_UPDATE = Operation("DeferComponentUpdate", "new_defer_component_update", "")

ERRORS: Dict[str, Tuple[Type[NucleusError], str]] = {
    "UnauthorizedError": (
        NotAuthorized,
        "The nucleus doesn't permit {what}: the component's accessControl needs a policy of "
        "{service} with the operation {operation} and this resource. Add it to the recipe or to "
        "the deployment.",
    ),
    "InvalidArgumentsError": (
        NotAccepted,
        "The nucleus doesn't accept {what}: an argument is wrong.",
    ),
    "ResourceNotFoundError": (NotFound, "The nucleus can't find the resource of {what}."),
}
OTHER_ERROR = (  # the same for every topic, so that it is logged once
    NucleusBusy,
    "The nucleus can't do {operation} now ({error}). It is offline or busy, or doesn't offer this.",
)


def translate(error: BaseException, operation: Operation, resource: str) -> NucleusError:
    """Return our error for one of the nucleus's."""
    becomes, sentence = ERRORS.get(type(error).__name__, OTHER_ERROR)
    return becomes(
        sentence.format(
            what=f"{operation.name} on {resource!r}",
            service=operation.service,
            operation=f"aws.greengrass#{operation.name}",
            error=type(error).__name__,
        )
    )


def message_error(topic: str, payload: bytes) -> str:
    """Say why the nucleus would never accept the message; "": it would."""
    if len(topic.encode()) > MOST_TOPIC_BYTES:
        return f"The topic {topic!r} has over {MOST_TOPIC_BYTES} bytes. Shorten the setting."
    free_bytes = (MOST_VARIABLE_BYTES - len(json.dumps(topic))) // 4 * 3  # base64: 4 bytes for 3
    most = min(MOST_PAYLOAD_BYTES, free_bytes)
    if len(payload) > most:
        return f"The message has {len(payload)} bytes; the nucleus accepts at most {most}."
    return ""


def iot_core_message_error(topic: str, payload: bytes) -> str:
    """Say the same for AWS IoT Core."""
    if topic.count("/") > MOST_SLASHES and not topic.startswith("$aws/rules/"):
        return f"The topic {topic!r} has over {MOST_SLASHES} slashes. Shorten the setting."
    return message_error(topic, payload)
