"""The agent component's default settings, and the policies its settings need: no more, no less.

Source of services, operations and resources: the authorisation policies of Greengrass's IPC.
"""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any, Dict, List

from edge_agent.config import ResultsSettings, build, from_file
from edge_agent.errors import InvalidConfiguration
from edge_agent.runtime.host.configuration import settings_tree
from edge_agent.runtime.host.metrics_publisher import UNITS

WORK = Path("work")  # stands for the work folder, which only the device knows
Policies = Dict[str, Dict[str, Any]]


def read(file: Path) -> Dict[str, Any]:
    """Return a settings file of `serve` as the component's configuration; its socket is `Socket`.

    Raises InvalidConfiguration.
    """
    tree = from_file(file)
    server = tree.get("server")
    if isinstance(server, dict) and "socket" in server:
        tree["Socket"] = server.pop("socket")
    return tree


def complete(defaults: Dict[str, Any], name: str) -> Dict[str, Any]:
    """Return `defaults` with accessControl for the component `name`. Raises InvalidConfiguration.

    That is left out when the agent needs no permission at all.
    """
    settings = build(settings_tree(copy.deepcopy(defaults), WORK), {})
    if settings.results.mqtt.pkcs11_pin.get_secret_value():
        raise InvalidConfiguration(
            "results.mqtt.pkcs11_pin must not stand in a recipe, which many can read. Put it into "
            "a file on the device that only the agent's user can read, and set "
            "results.mqtt.pkcs11_pin_file."
        )
    policies = access_control(settings.results, name)
    return {**defaults, "accessControl": policies} if policies else dict(defaults)


def access_control(results: ResultsSettings, name: str) -> Dict[str, Policies]:
    """Return accessControl: what the agent, as component `name`, asks of the nucleus."""
    greengrass, commands = results.greengrass, results.commands
    publish: List[str] = [greengrass.topic] if greengrass.topic else []
    subscribe: List[str] = []
    if commands.allow and greengrass.topic and not results.mqtt.endpoint:
        subscribe.append(f"{commands.topic}/+")
        publish.append(f"{commands.response_topic}/{{requester}}")
    local = [greengrass.local_topic] if greengrass.local_topic else []
    metrics = list(UNITS) if name.startswith("aws.") else []  # no others are allowed any
    asked = [
        ("mqttproxy", "PublishToIoTCore", _resources(publish, results.thing)),
        ("mqttproxy", "SubscribeToIoTCore", _resources(subscribe, results.thing)),
        ("pubsub", "PublishToTopic", _resources(local, results.thing)),
        ("componentmetric", "PutComponentMetric", metrics),
    ]  # fmt: skip
    found: Dict[str, Policies] = {}
    for service, operation, resources in asked:
        if resources:
            policies = found.setdefault(f"aws.greengrass.ipc.{service}", {})
            policies[f"{name}:{service}:{len(policies) + 1}"] = {
                "operations": [f"aws.greengrass#{operation}"],
                "resources": resources,
            }
    return found


def _resources(topics: List[str], thing: str) -> List[str]:
    return [_resource(topic, thing) for topic in topics]


def _resource(topic: str, thing: str) -> str:
    """Put into a topic what policies know in place of our names, and mark what they'd misread."""
    marked = re.sub(r"[*?$]", lambda found: f"${{{found.group()}}}", topic)
    named = marked.replace("{thing}", thing or "{iot:thingName}")
    return re.sub(r"(?<!\$)\{(model|kind|verdict|requester)\}", "*", named)
