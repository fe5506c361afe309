"""The original agent's component: its one setting is one of ours as well."""

from __future__ import annotations

import copy
import json

from edge_agent.config import Settings, build
from edge_agent.errors import InvalidConfiguration
from edge_agent.packaging.json_document import Document
from edge_agent.packaging.migrate.migration import Notes, without_values

SOCKET = "Socket"


def matches(values: Document) -> bool:
    """Whether this is the agent's configuration: its own setting, at most with ours beside it."""
    others = set(values) - {"accessControl"} - set(Settings.model_fields)
    return [key.lower() for key in others] == [SOCKET.lower()]


def migrate(configuration: Document, notes: Notes) -> None:
    """Write the configuration of our agent's component, if it needs any."""
    agent = notes.migration.agent
    ours = settings(configuration, agent, notes)
    if ours:
        name = f"{agent}.configuration.json"
        notes.changed(agent, f"{name} is what a deployment merges into our agent's configuration.")
        notes.migration.write(name, json.dumps(ours, indent=2).encode() + b"\n")


def component(notes: Notes) -> None:
    """Say where our agent's component comes from."""
    notes.changed(
        notes.migration.agent, "Our agent takes its place; build its component.",
        ["edge-agent", "component", "build"],
    )  # fmt: skip


def settings(given: Document, thing: str, notes: Notes) -> Document:
    """Return our settings for what is given; what isn't known or not valid is left out."""
    ours: Document = {}
    for key, value in given.items():
        if key.lower() == SOCKET.lower():
            ours.update(_socket(value, thing, notes))
        elif key == "accessControl":
            notes.changed(f"{thing} {key}", "Left out: our agent's recipe has what it needs.")
        elif key in Settings.model_fields:
            ours.update(_own(key, value, thing, notes))
        else:
            notes.person(f"{thing} {key}", "Left out: it is no setting of the agent.")
    return ours


def _socket(value: object, thing: str, notes: Notes) -> Document:
    address = f"unix://{value}" if isinstance(value, str) and value.startswith("/") else value
    if not _own("server", {"socket": address}, f"{thing} {SOCKET}, as", notes):
        return {}
    if address == value:
        notes.maps(f"{thing} {SOCKET}", "Ours has it too; give clients the same address.")
    else:
        notes.changed(f"{thing} {SOCKET}", "It begins with unix:// now, as clients need it.")
    return {SOCKET: address}


def _own(key: str, value: object, thing: str, notes: Notes) -> Document:
    """Return one group of our settings when it is valid."""
    checked = copy.deepcopy(value)
    if key == "results" and isinstance(checked, dict):
        checked.setdefault("folder", "results")  # the component has one
    try:
        build({key: checked}, {})
    except InvalidConfiguration as error:
        notes.person(f"{thing} {key}", f"Left out. {without_values(error)}")
        return {}
    return {key: value}
