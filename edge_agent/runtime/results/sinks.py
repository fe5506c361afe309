"""Makes the sinks that are configured."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Callable, List, Optional

from edge_agent.config import MqttSettings, ResultsSettings
from edge_agent.errors import InvalidConfiguration
from edge_agent.runtime.host import greengrass as host
from edge_agent.runtime.results import topics
from edge_agent.runtime.results.greengrass import IotCoreSink, LocalSink
from edge_agent.runtime.results.lines import LinesSink
from edge_agent.runtime.results.mqtt import MqttSink
from edge_agent.runtime.results.sink import CommandSource, Sink


def thing_name(settings: ResultsSettings) -> str:
    """Return the name of this device in events and topics.

    Raises InvalidConfiguration when a topic with this name isn't valid.
    """
    candidates = {
        "results.thing": settings.thing,
        "AWS_IOT_THING_NAME": os.environ.get("AWS_IOT_THING_NAME", ""),
        "the name of this machine": socket.gethostname(),
    }
    source, thing = next((pair for pair in candidates.items() if pair[1]), ("", ""))
    if settings.go_somewhere:
        topics.check(settings, thing, source, client_id(settings.mqtt, thing))
    return thing


def client_id(settings: MqttSettings, thing: str) -> str:
    """Return the name by which the agent connects to its broker."""
    # On a Greengrass core the nucleus itself is connected under the thing's name.
    default = f"{thing}-edge-agent" if host.available(os.environ) else thing
    return settings.client_id or default


def make_nucleus(
    settings: ResultsSettings, on_lost: Callable[[str], None]
) -> Optional[host.Greengrass]:
    """Return the connection that Greengrass sinks share, None when no such sink is set.

    Raises InvalidConfiguration outside Greengrass.
    """
    if not (settings.greengrass.topic or settings.greengrass.local_topic):
        return None
    if not host.available(os.environ):
        raise InvalidConfiguration(
            "results.greengrass is set, but no Greengrass nucleus started this process. "
            "Deploy the agent as a component, or use results.mqtt."
        )
    # A nucleus starts a component in its work folder, which has its name.
    return host.Greengrass(os.environ, on_lost, Path.cwd().name)


def make_sinks(
    settings: ResultsSettings, thing: str, nucleus: Optional[host.Greengrass]
) -> List[Sink]:
    """Return the sinks, not started. Raises InvalidConfiguration."""
    sinks: List[Sink] = []
    if settings.lines:
        sinks.append(LinesSink(settings.lines))
    if settings.mqtt.endpoint:
        named = {"client_id": client_id(settings.mqtt, thing)}
        sinks.append(MqttSink(settings.mqtt.model_copy(update=named), thing))
    if nucleus is not None and settings.greengrass.topic:
        sinks.append(IotCoreSink(settings.greengrass, thing, nucleus))
    if nucleus is not None and settings.greengrass.local_topic:
        sinks.append(LocalSink(settings.greengrass, thing, nucleus))
    return sinks


def command_source(sinks: List[Sink]) -> CommandSource:
    """Return the sink that receives commands. Raises InvalidConfiguration when there is none."""
    for sink in sinks:
        if isinstance(sink, (MqttSink, IotCoreSink)):
            return sink
    raise InvalidConfiguration(
        "results.commands needs results.mqtt.endpoint or results.greengrass.topic."
    )
