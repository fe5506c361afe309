"""Topics with all values filled in, and whether they can be published on.

Sources: MQTT 5.0, 4.7; the quotas of AWS IoT Core, which disconnects the device on longer topics.
"""

from __future__ import annotations

from typing import Dict, Mapping, Tuple

from edge_agent.config import ResultsSettings
from edge_agent.errors import InvalidConfiguration

MOST_BYTES, MOST_BYTES_AT_AWS = 65_535, 256
MOST_SLASHES_AT_AWS = 7
MOST_CLIENT_ID_BYTES = 128  # at AWS IoT Core
MOST_REQUESTER_CHARACTERS = 128
WILDCARDS = "+#"
NOT_IN_LEVEL = "/+#{}"  # characters that would change the topic or subscribe to more
EXAMPLES = {"model": "m", "kind": "summary", "verdict": "anomaly"}  # models are checked one by one
AWS_HOSTS = (".amazonaws.com", ".amazonaws.com.cn")


def topic_error(topic: str, at_aws: bool) -> str:
    """Why nobody can publish on `topic`, a clause; "": it is valid."""
    if any(each in topic for each in WILDCARDS):
        return f"the topic {topic!r} isn't valid: it has the wildcard + or #"
    if "{" in topic or "}" in topic:
        return f"the topic {topic!r} has a name in braces that isn't known here"
    if not topic.isprintable():
        return f"the topic {topic!r} isn't valid: it has a control character"
    if topic.startswith("$") and not topic.startswith("$aws/"):
        return f"the topic {topic!r} isn't valid: those with $ at the start are the broker's own"
    size, most = len(topic.encode()), MOST_BYTES_AT_AWS if at_aws else MOST_BYTES
    if not 0 < size <= most:
        return f"the topic {topic!r:.300} has {size} bytes; 1 to {most} are possible"
    if at_aws and topic.count("/") > MOST_SLASHES_AT_AWS and not topic.startswith("$aws/rules/"):
        return f"the topic {topic!r} has over {MOST_SLASHES_AT_AWS} slashes"
    return ""


def level_error(value: str) -> str:
    """Why `value` can't be one level of a topic, a clause; "": it can."""
    if not value:
        return "it is empty"
    bad = next((each for each in value if each in NOT_IN_LEVEL or not each.isprintable()), "")
    if bad:
        return (
            f"it has the character {bad!r}; a name in a topic has no control characters and none "
            "of / + # { }"
        )
    return "names with $ at the start are the broker's own" if value.startswith("$") else ""


def is_requester(name: str) -> bool:
    """Whether an answer can be published for the requester `name`."""
    return len(name) <= MOST_REQUESTER_CHARACTERS and not level_error(name)


def at_aws(endpoint: str) -> bool:
    """Whether the broker is AWS IoT Core."""
    return endpoint.lower().rstrip(".").endswith(AWS_HOSTS)


def check(settings: ResultsSettings, thing: str, source: str, client_id: str) -> None:
    """Fill in every topic that is used; `source` is where the name of the `thing` comes from.

    client_id: by which the agent connects to its own broker.

    Raises InvalidConfiguration for one that isn't valid, or a client id.
    """
    filled_in = _filled_in(settings, thing)
    why = level_error(thing) if filled_in else ""
    if why:
        raise InvalidConfiguration(
            f"The thing's name {thing!r:.140}, which comes from {source}, can't be part of a "
            f"topic: {why}. Set results.thing (the default is AWS_IOT_THING_NAME, or the host's "
            "name). Put further levels into the topic settings."
        )
    for name, (topic, through_aws) in filled_in.items():
        why = topic_error(topic, through_aws)
        if not why and name == "greengrass.local_topic" and "*" in topic:
            why = f"the topic {topic!r} has a *, which the nucleus takes for a wildcard"
        if why:
            size = f" The name of the thing in it, of {source}, has {len(thing.encode())} bytes."
            advice = size if "bytes" in why else ""
            raise InvalidConfiguration(f"results.{name}: {why}. Change this setting.{advice}")
    endpoint = settings.mqtt.endpoint
    why = _client_id_error(client_id, endpoint) if endpoint else ""
    if why:
        default = "" if settings.mqtt.client_id else f" This is the default, made of {source}."
        raise InvalidConfiguration(f"results.mqtt.client_id: {why}.{default}")


def _client_id_error(name: str, endpoint: str) -> str:
    """Why nobody can connect to the broker by this name, a clause."""
    most = MOST_CLIENT_ID_BYTES
    bad = next((each for each in name if not each.isprintable()), "")
    if bad:
        return f"{name!r:.140} has the character {bad!r}; use letters, digits, - and _"
    if at_aws(endpoint) and len(name.encode()) > most:
        return f"{name!r:.140} has {len(name.encode())} bytes; AWS IoT Core allows {most}"
    return ""


def _filled_in(settings: ResultsSettings, thing: str) -> Dict[str, Tuple[str, bool]]:
    """Return the topics in use by their settings, and whether AWS IoT Core sees them."""
    mqtt, greengrass, commands = settings.mqtt, settings.greengrass, settings.commands
    by_broker = at_aws(mqtt.endpoint) if mqtt.endpoint else True
    by_event, by_thing = {"thing": thing, **EXAMPLES}, {"thing": thing}
    filled: Dict[str, Tuple[str, bool]] = {}
    if greengrass.topic:
        filled["greengrass.topic"] = fill(greengrass.topic, by_event), True
    if greengrass.local_topic:
        filled["greengrass.local_topic"] = fill(greengrass.local_topic, by_event), False
    if mqtt.endpoint:
        filled["mqtt.topic"] = fill(mqtt.topic, by_event), by_broker
        filled["mqtt.state_topic"] = fill(mqtt.state_topic, by_thing), by_broker
    if commands.allow:
        filled["commands.topic"] = fill(f"{commands.topic}/r", by_thing), by_broker
        answers = fill(f"{commands.response_topic}/r", by_thing)
        filled["commands.response_topic"] = answers, by_broker
    return filled


def fill(template: str, values: Mapping[str, str]) -> str:
    """Put each value in place of its name in braces, once: none is looked for in another's."""
    parts = template.split("{")
    for at, part in enumerate(parts[1:], 1):
        name, brace, rest = part.partition("}")
        parts[at] = values[name] + rest if brace and name in values else "{" + part
    return "".join(parts)
