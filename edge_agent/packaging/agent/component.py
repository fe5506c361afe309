"""Writes the agent's component folder: recipe.yaml filled in, and an artifact an architecture.

recipes/NAME-VERSION.json               for local deployments and publishing
recipe.yaml                             the same, to read
artifacts/NAME/VERSION/edge-agent-ARCHITECTURE.zip

The recipe's accessControl allows what its settings need: no more, no less. Source of services,
operations and resources: the authorisation policies of Greengrass's IPC.
"""

from __future__ import annotations

import copy
import json
import re
import shlex
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Dict, List, Optional, Tuple

import edge_agent
from edge_agent import __version__
from edge_agent.config import ResultsSettings, build, from_file
from edge_agent.errors import InvalidConfiguration
from edge_agent.packaging.agent import artifact
from edge_agent.packaging.agent.artifact import Device
from edge_agent.packaging.json_document import Document, inner, objects
from edge_agent.packaging.recipe import Architecture, Recipe, check, read_yaml
from edge_agent.runtime.host.configuration import settings_tree
from edge_agent.runtime.host.metrics_publisher import UNITS

PROJECT = Path(edge_agent.__file__).resolve().parent.parent
TEMPLATE = "recipe.yaml"
OLDEST_PYTHON = (3, 8)
JETPACK_PYTHON = "3.8"  # of JetPack 5
# What the agent needs of the nucleus, passed on into its container.
IPC = "AWS_GG_NUCLEUS_DOMAIN_SOCKET_FILEPATH_FOR_COMPONENT"
ENVIRONMENT = (IPC, "SVCUID", "AWS_IOT_THING_NAME", "AWS_REGION", "GGC_VERSION")
FETCH_WITHIN_S = 3600  # an image of a few GB
WORK = Path("work")  # stands for the work folder, which only the device knows

Policies = Dict[str, Dict[str, List[str]]]


@dataclass(frozen=True)
class ComponentPlan:
    """What to build."""

    name: str
    architectures: Tuple[Architecture, ...]
    pythons: Tuple[str, ...]  # such as 3.11; on a Jetson it's 3.8
    has_jetson: bool = False  # what is built for aarch64 is for JetPack 5
    settings: Optional[Path] = None  # a settings file (JSON)
    image: Optional[str] = None  # the agent runs in a container of it; nothing is installed
    may_use_index: bool = False  # a device with another Python installs from its index
    level: int = 1  # of xz

    def devices(self, architecture: Architecture) -> List[Device]:
        """Return the devices that the artifact of an architecture is for."""
        if self.has_jetson and architecture == "aarch64":
            return [Device(architecture, JETPACK_PYTHON, is_jetson=True)]
        return [Device(architecture, python) for python in self.pythons]


def recipe(plan: ComponentPlan, project: Path = PROJECT) -> Recipe:
    """Fill in the template. Raises InvalidConfiguration."""
    try:
        text = (project / TEMPLATE).read_text()
    except OSError:
        raise InvalidConfiguration(
            f"There is no {TEMPLATE} in {project}. The component is built from the project's "
            "source: clone it, and install it with pip install -e '.[package]'."
        ) from None
    template = read_yaml(
        text.replace("COMPONENT_NAME", plan.name).replace("COMPONENT_VERSION", __version__)
    )
    settings = inner(inner(template, "ComponentConfiguration"), "DefaultConfiguration")
    if plan.settings:
        settings = {"Socket": settings["Socket"], **read_settings(plan.settings)}
    settings = complete(settings, plan.name)
    manifests = {
        inner(manifest, "Platform")["architecture"]: manifest
        for manifest in objects(template, "Manifests")
    }
    if plan.image:
        for architecture in plan.architectures:
            command = partial(_docker, architecture, plan, str(settings["Socket"]))
            install = {"Script": f"{command('.check')} --check", "Timeout": FETCH_WITHIN_S}
            lifecycle = {"install": install, "run": {"Script": command("")}}
            manifests[architecture].update(Lifecycle=lifecycle, Artifacts=[])
    filled = {
        **template,
        "ComponentConfiguration": {"DefaultConfiguration": settings},
        "Manifests": [manifests[architecture] for architecture in plan.architectures],
    }
    return check(json.dumps(filled).encode())


def write(folder: Path, plan: ComponentPlan) -> None:
    """Fill `folder`, which is empty. Raises InvalidConfiguration, OSError."""
    artifacts = recipe(plan).begin(folder)
    if plan.image:
        return
    with tempfile.TemporaryDirectory() as name:
        own = artifact.build_wheel(PROJECT, Path(name))
        for architecture in plan.architectures:
            path = artifacts / f"edge-agent-{architecture}.zip"
            _write_artifact(path, plan, plan.devices(architecture), own)


def _write_artifact(path: Path, plan: ComponentPlan, devices: List[Device], own: Path) -> None:
    facts = {
        "name": plan.name, "version": __version__, "agent": own.name,
        "extras": f"[{','.join(artifact.EXTRAS)}]",
        "index": plan.may_use_index, "jetson": devices[0].is_jetson,
    }  # fmt: skip
    limits = PROJECT / "requirements" / "jetson.txt"
    with tempfile.TemporaryDirectory() as name:
        collected = {
            device.python: [
                *artifact.collect_wheels(own, device, limits, Path(name, device.python)),
                artifact.pip_wheel(device, Path(name, "pip", device.python)),
            ]
            for device in devices
        }
        artifact.write(path, collected, facts, plan.level)


def _docker(architecture: Architecture, plan: ComponentPlan, socket: str, suffix: str) -> str:
    """Return the command of a container; docker fetches its image if need be."""
    clients = shlex.quote(str(Path(socket[len("unix://") :]).parent))
    is_jetson = plan.has_jetson and architecture == "aarch64"
    words = [
        f"exec docker run --rm --name {plan.name}{suffix} --network host",
        *(["--runtime nvidia --group-add video"] if is_jetson else []),
        '--user "$(id -u):$(id -g)"',
        *(f"--env {name}" for name in ENVIRONMENT),
        f'--volume "${IPC}:${IPC}"',
        '--volume "{kernel:rootPath}/packages:{kernel:rootPath}/packages:ro"',
        '--volume "{kernel:rootPath}/work:{kernel:rootPath}/work:ro"',  # where models are kept
        '--volume "{work:path}:{work:path}"',
        f"--volume {clients}:{clients}",
        "--volume /dev/shm:/dev/shm",  # frames of clients; the IPC namespace stays the container's
        f'{plan.image} serve --greengrass "{{work:path}}"',
    ]
    return " ".join(words)


def read_settings(file: Path) -> Document:
    """Return a settings file of `serve` as the component's configuration; its socket is `Socket`.

    Raises InvalidConfiguration.
    """
    tree: Document = from_file(file)
    server = tree.get("server")
    if isinstance(server, dict) and "socket" in server:
        tree["Socket"] = server.pop("socket")
    return tree


def complete(defaults: Document, name: str) -> Document:
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
    """Return accessControl: what the agent, as component `name`, may use of the nucleus."""
    greengrass, commands = results.greengrass, results.commands
    publish: List[str] = [greengrass.topic] if greengrass.topic else []
    subscribe: List[str] = []
    if commands.allow and greengrass.topic and not results.mqtt.endpoint:
        subscribe.append(f"{commands.topic}/+")
        publish.append(f"{commands.response_topic}/{{requester}}")
    local = [greengrass.local_topic] if greengrass.local_topic else []
    metrics = list(UNITS) if name.startswith("aws.") else []  # no others are allowed any
    needed = [
        ("mqttproxy", "PublishToIoTCore", _resources(publish, results.thing)),
        ("mqttproxy", "SubscribeToIoTCore", _resources(subscribe, results.thing)),
        ("pubsub", "PublishToTopic", _resources(local, results.thing)),
        ("componentmetric", "PutComponentMetric", metrics),
    ]  # fmt: skip
    found: Dict[str, Policies] = {}
    for service, operation, resources in needed:
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
    """Return a topic as policies have it: with their variables, and special characters escaped."""
    marked = re.sub(r"[*?$]", lambda found: f"${{{found.group()}}}", topic)
    named = marked.replace("{thing}", thing or "{iot:thingName}")
    return re.sub(r"(?<!\$)\{(model|kind|verdict|requester)\}", "*", named)
