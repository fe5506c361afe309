"""Writes the agent's component folder: recipe.yaml filled in, and an artifact an architecture.

recipes/NAME-VERSION.json               for local deployments and publishing
recipe.yaml                             the same, to read
artifacts/NAME/VERSION/edge-agent-ARCHITECTURE.zip
"""

from __future__ import annotations

import json
import shlex
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import List, Optional, Tuple

import edge_agent
from edge_agent import __version__
from edge_agent.errors import InvalidConfiguration
from edge_agent.packaging.agent import artifact, configuration, wheels
from edge_agent.packaging.agent.wheels import Device
from edge_agent.packaging.recipe import Architecture, Recipe, check, read_yaml

PROJECT = Path(edge_agent.__file__).resolve().parent.parent
TEMPLATE = "recipe.yaml"
OLDEST_PYTHON = (3, 8)
# What the agent wants to know of the nucleus, handed on into its container.
IPC = "AWS_GG_NUCLEUS_DOMAIN_SOCKET_FILEPATH_FOR_COMPONENT"
ENVIRONMENT = (IPC, "SVCUID", "AWS_IOT_THING_NAME", "AWS_REGION", "GGC_VERSION")


@dataclass(frozen=True)
class Plan:
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
            return [Device(architecture, "3.8", is_jetson=True)]
        return [Device(architecture, python) for python in self.pythons]


def recipe(plan: Plan, project: Path = PROJECT) -> Recipe:
    """Fill in the template. Raises InvalidConfiguration."""
    try:
        text = (project / TEMPLATE).read_text()
    except OSError:
        raise InvalidConfiguration(
            f"There is no {TEMPLATE} in {project}. The component is built from the project's "
            "source: clone it, and install it with pip install -e '.[package]'."
        ) from None
    values = read_yaml(
        text.replace("COMPONENT_NAME", plan.name).replace("COMPONENT_VERSION", __version__)
    )
    settings = values["ComponentConfiguration"]["DefaultConfiguration"]
    if plan.settings:
        settings = {"Socket": settings["Socket"], **configuration.read(plan.settings)}
    settings = configuration.complete(settings, plan.name)
    values["ComponentConfiguration"]["DefaultConfiguration"] = settings
    manifests = {manifest["Platform"]["architecture"]: manifest for manifest in values["Manifests"]}
    values["Manifests"] = [manifests[architecture] for architecture in plan.architectures]
    if plan.image:
        for manifest in values["Manifests"]:
            command = _docker(manifest["Platform"]["architecture"], plan, settings["Socket"])
            manifest["Lifecycle"], manifest["Artifacts"] = {"run": {"Script": command}}, []
    return check(json.dumps(values).encode())


def write(folder: Path, plan: Plan) -> None:
    """Fill `folder`, which is empty. Raises InvalidConfiguration, OSError."""
    filled = recipe(plan)
    recipes = folder / "recipes"
    artifacts = folder / "artifacts" / plan.name / __version__
    recipes.mkdir()
    artifacts.mkdir(parents=True)
    (recipes / f"{plan.name}-{__version__}.json").write_bytes(filled.to_json())
    (folder / TEMPLATE).write_bytes(filled.to_yaml())
    if plan.image:
        return
    with tempfile.TemporaryDirectory() as name:
        own = wheels.build(PROJECT, Path(name))
        for architecture in plan.architectures:
            path = artifacts / f"edge-agent-{architecture}.zip"
            _write_artifact(path, plan, plan.devices(architecture), own)


def _write_artifact(path: Path, plan: Plan, devices: List[Device], own: Path) -> None:
    facts = {
        "name": plan.name, "version": __version__, "agent": own.name,
        "extras": f"[{','.join(wheels.EXTRAS)}]",
        "index": plan.may_use_index, "jetson": devices[0].is_jetson,
    }  # fmt: skip
    limits = PROJECT / "requirements" / "jetson.txt"
    with tempfile.TemporaryDirectory() as name:
        collected = {
            device.python: [
                *wheels.collect(own, device, limits, Path(name, device.python)),
                wheels.pip(device, Path(name, "pip", device.python)),
            ]
            for device in devices
        }
        artifact.write(path, collected, facts, plan.level)


def _docker(architecture: Architecture, plan: Plan, socket: str) -> str:
    """Return the run phase of a container; docker fetches its image if need be."""
    clients = shlex.quote(str(Path(socket[len("unix://") :]).parent))
    is_jetson = plan.has_jetson and architecture == "aarch64"
    words = [
        f"exec docker run --rm --name {plan.name} --network host",
        *(["--runtime nvidia --group-add video"] if is_jetson else []),
        '--user "$(id -u):$(id -g)"',
        *(f"--env {name}" for name in ENVIRONMENT),
        f'--volume "${IPC}:${IPC}"',
        '--volume "{kernel:rootPath}/packages:{kernel:rootPath}/packages:ro"',
        '--volume "{work:path}:{work:path}"',
        f"--volume {clients}:{clients}",
        "--volume /dev/shm:/dev/shm",  # frames of clients; the IPC namespace stays the container's
        f'{plan.image} serve --greengrass "{{work:path}}"',
    ]
    return " ".join(words)
