"""A deployment, of the cloud or local, as a request of CreateDeployment with our components."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Dict, List, Optional, Tuple

from edge_agent import __version__
from edge_agent.errors import InvalidConfiguration
from edge_agent.packaging.aws.deployment import (
    ANSWER_KEYS,
    ANY_TARGET,
    REQUEST,
    REQUEST_KEYS,
    as_request,
    merge_of,
    problems,
    repeatable,
    reset_of,
    to_json,
)
from edge_agent.packaging.json_document import Document, inner
from edge_agent.packaging.migrate import agent, models, versions
from edge_agent.packaging.migrate.migration import Notes
from edge_agent.packaging.recipe import AGENT

AWS = "aws.greengrass."
SAMPLES = "aws.greengrass.labs."  # private components, although of that name
KNOWN = ("targetArn", *REQUEST_KEYS, *ANSWER_KEYS, "clientToken")
# a local deployment's key → ours, by what the command line and the nucleus call it
LOCAL_VERSIONS = ("componentsToMerge", "rootComponentVersionsToAdd")
LOCAL_REMOVED = ("componentsToRemove", "rootComponentsToRemove")
LOCAL_SETTINGS = "componentToConfiguration"
LOCAL_USERS = "componentToRunWithInfo"
LOCAL = (*LOCAL_VERSIONS, *LOCAL_REMOVED, LOCAL_SETTINGS, LOCAL_USERS)
LOCAL_FOLDERS = ("recipeDirectoryPath", "artifactsDirectoryPath", "groupName")


def read(values: Document) -> Optional[Document]:
    """Return a deployment with its keys as the API and the nucleus write them; None: it is none.

    Raises InvalidConfiguration when a key stands there twice.
    """
    known = {key.lower(): key for key in (*LOCAL, *LOCAL_FOLDERS)}
    given = as_request({known.get(key.lower(), key): value for key, value in values.items()})
    is_deployment = isinstance(given.get("components"), dict) or any(key in given for key in LOCAL)
    return given if is_deployment else None


def migrate(values: Document, notes: Notes) -> None:
    """Write the request, unless a person must change the deployment first."""
    stem = Path(notes.source).stem
    try:
        given = _given(values, notes)
        content = to_json(_request(values, given, notes))
    except InvalidConfiguration as error:
        notes.person(stem, f"No deployment is written. {error}")
        return
    file = f"{stem}.deployment.json"
    command = ["edge-agent", "deploy", "--from", notes.migration.path(file)]
    if AGENT in given and notes.migration.agent != AGENT:
        command += ["--remove", AGENT]  # else both would listen on one socket
    notes.migration.write(file, content)
    notes.changed(
        stem,
        "To be deployed when the components are published. (aws greengrassv2 create-deployment "
        "--cli-input-json takes it as well, and removes what it doesn't list.)",
        command,
    )


def _given(values: Document, notes: Notes) -> Document:
    """Return its components as CreateDeployment has them."""
    local = "components" not in values
    for key in sorted(set(values) - {*KNOWN, *(LOCAL + LOCAL_FOLDERS) * local}):
        notes.person(key, "Left out: what is written here has no such key.")
    components = _of_local(values, notes) if local else inner(values, "components")
    if not components:
        raise InvalidConfiguration("It names no component.")
    return components


def _request(values: Document, components: Document, notes: Notes) -> Document:
    target = notes.migration.target or values.get("targetArn")
    ours: Document = {}
    refusals: List[str] = []
    if not target:
        refusals.append("It has no target; name a thing or a group with --target-arn.")
    for name, component in components.items():
        new = notes.migration.agent if name == AGENT else name
        if new in ours:
            refusals.append(f"It has {AGENT} and {new}; take the one out you don't use.")
        try:
            ours[new] = _component(name, component, notes)
        except InvalidConfiguration as error:
            refusals.append(str(error))
            ours[new] = component
    others = {key: value for key, value in repeatable(values).items() if key != "components"}
    request = {"targetArn": target or ANY_TARGET, **others, "components": ours}
    if refusals:
        found = [*refusals, *problems(request, REQUEST, "")]
        raise InvalidConfiguration(" ".join(dict.fromkeys(found)))
    return request


def _of_local(values: Document, notes: Notes) -> Document:
    """Return a local deployment's components as CreateDeployment has them."""
    found: Dict[str, Document] = {}
    for key in LOCAL_VERSIONS:
        for name, version in inner(values, key).items():
            found[name] = {"componentVersion": version}
    changes = inner(values, LOCAL_SETTINGS)
    for name in changes:
        parts = {key.lower(): part for key, part in inner(changes, name).items()}
        merge = parts.get("merge")
        update = {"merge": merge, "reset": parts.get("reset")}
        if name in found:
            found[name]["configurationUpdate"] = {k: v for k, v in update.items() if v}
        else:
            notes.person(f"{name} configuration", "Left out: its version isn't named; add it.")
    for name, user in inner(values, LOCAL_USERS).items():
        if name in found:
            found[name]["runWith"] = user
    for key in LOCAL_REMOVED:
        removed = values.get(key) or []
        if not isinstance(removed, list):
            raise InvalidConfiguration(f"{key} must be a list.")
        for name in removed:
            notes.person(name, f"Left out: remove it with edge-agent deploy --remove {name}.")
    return inner(as_request({"components": found}), "components")


def _component(name: str, given: object, notes: Notes) -> Document:
    if not isinstance(given, dict):
        raise InvalidConfiguration(f"components.{name} must be an object.")
    update = inner(given, "configurationUpdate", f"{name}: configurationUpdate")
    merge, reset = merge_of(name, update), reset_of(name, update)
    old = str(given.get("componentVersion", ""))
    if name == AGENT:
        merge, reset = _agent(old, merge, reset, notes)
        new = __version__
    elif name in notes.migration.models or (
        models.is_configuration(merge) and name not in notes.migration.refused
    ):
        new, merge, reset = _model(name, old, merge, reset, notes)
    else:
        new = _other(name, old, notes)
    ours = {"merge": json.dumps(merge) if merge else None, "reset": reset or None}
    kept = {key: value for key, value in ours.items() if value}
    component = {**given, "componentVersion": new, "configurationUpdate": kept or None}
    return {key: value for key, value in component.items() if value is not None}


def _agent(old: str, merge: Document, reset: List[str], notes: Notes) -> Tuple[Document, List[str]]:
    name = notes.migration.agent
    if old == __version__:
        notes.maps(name, f"Version {old} is ours already.")
    else:
        notes.changed(f"{AGENT} {old}", f"{name} {__version__}, the version of our agent.")
    known = [pointer for pointer in reset if pointer in ("", f"/{agent.SOCKET}")]
    for pointer in sorted(set(reset) - set(known)):
        notes.person(f"{name} reset {pointer}", "Left out: the original has no such setting.")
    return agent.settings(merge, name, notes), known


def _model(
    name: str, old: str, merge: Document, reset: List[str], notes: Notes
) -> Tuple[str, Document, List[str]]:
    if name not in notes.migration.models:
        notes.person(
            name, "A model of the original: give its recipe to migrate too, for the commands that "
            "make the new model.",
        )  # fmt: skip
    new = notes.migration.versions.get(name) or _next(old, name)
    notes.changed(f"{name} {old}", f"{name} {new}, the new model.")
    known = [pointer for pointer in reset if pointer in ("", "/Autostart")]
    return new, models.settings(merge, name, notes), known


def _next(old: str, name: str) -> str:
    try:
        return versions.next_major(old)
    except ValueError as error:
        raise InvalidConfiguration(f"{name}: {error}") from None


def _other(name: str, old: str, notes: Notes) -> str:
    new = notes.migration.versions.get(name)
    if new:
        notes.changed(f"{name} {old}", f"{name} {new}, with our recipe.")
        return new
    if name in notes.migration.refused:
        notes.person(
            name, f"Its recipe couldn't be migrated, see above; version {old} needs the old agent."
        )
    elif name.startswith(AWS) and not name.startswith(SAMPLES):
        notes.maps(name, "It stays as it is.")
    else:
        notes.person(
            name, "It stays as it is and wasn't checked. If it is a model of the original or calls "
            "one, give its recipe to migrate too.",
        )  # fmt: skip
    return old
