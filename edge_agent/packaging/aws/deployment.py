"""The request that revises a target's deployment; pure, in the words of greengrassv2.

A deployment replaces everything the one before it put on its target, so the new one starts from the
old one: what isn't named stays.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import Any, Dict, List, Tuple

from edge_agent.errors import InvalidConfiguration
from edge_agent.fields import parse_json

Json = Dict[str, Any]
KEPT = ("deploymentName", "components", "deploymentPolicies", "iotJobConfiguration", "tags")


@dataclass(frozen=True)
class Change:
    """What is asked for; components by name."""

    versions: Dict[str, str] = field(default_factory=dict)
    merges: Dict[str, Json] = field(default_factory=dict)
    resets: List[Tuple[str, str]] = field(default_factory=list)  # name, JSON pointer; "" is all
    removed: List[str] = field(default_factory=list)
    name: str = ""
    policies: Json = field(default_factory=dict)
    job: Json = field(default_factory=dict)

    def alters(self, request: Json) -> bool:
        """Tell whether anything is asked for, beside removing what `request` doesn't have."""
        there = set(self.removed) & set(request["components"])
        return replace(self, removed=sorted(there)) != Change()


def kept(deployment: Json) -> Json:
    """Return what a new request may repeat of a deployment, as get_deployment tells it."""
    tags = deployment.get("tags", {})
    own = {key: value for key, value in tags.items() if not key.startswith("aws:")}
    request = {**{key: deployment.get(key) for key in KEPT}, "tags": own}
    return {key: value for key, value in request.items() if value}


def joined(first: Json, second: Json) -> Json:
    """Return a request that has all of both; of what both have, the second's."""
    components = {**first.get("components", {}), **second.get("components", {})}
    return {**first, **second, "components": components}


def revised(request: Json, change: Change) -> Json:
    """Return the request with `change` made. Raises InvalidConfiguration."""
    components = dict(request.get("components", {}))
    for name in change.removed:
        components.pop(name, None)
    for name, version in change.versions.items():
        components[name] = {**components.get(name, {}), "componentVersion": version}
    for name in sorted({*change.merges, *(name for name, _ in change.resets)}):
        if name not in components:
            raise InvalidConfiguration(f"{name} can't be configured: {_missing(components)}")
        components[name] = _configured(components[name], name, change)
    wanted = {
        **request,
        "components": components,
        "deploymentName": change.name or request.get("deploymentName"),
        "deploymentPolicies": {**request.get("deploymentPolicies", {}), **change.policies},
        "iotJobConfiguration": {**request.get("iotJobConfiguration", {}), **change.job},
    }
    return {key: value for key, value in wanted.items() if value or key == "components"}


def absent(request: Json, change: Change) -> List[str]:
    """Say of every component that is to be removed from `request` but isn't in it."""
    components = request["components"]
    missing = [name for name in change.removed if name not in components]
    return [f"--remove {name}: {_missing(components)}" for name in missing]


def _missing(components: Json) -> str:
    known = ", ".join(sorted(components)) or "none"
    return f"it isn't in the deployment. Components in it: {known}."


def _configured(specification: Json, name: str, change: Change) -> Json:
    """Return the component with its configuration changed.

    A device resets first and merges then, so what is reset leaves the merge that stays.
    """
    update = specification.get("configurationUpdate") or {}
    merge = _settings(name, update.get("merge") or "{}")
    reset = list(update.get("reset") or [])
    for pointer in (pointer for owner, pointer in change.resets if owner == name):
        merge = _without(merge, pointer)
        reset += [] if pointer in reset else [pointer]
    merge = _merged(merge, change.merges.get(name, {}))
    wanted = {"merge": json.dumps(merge, ensure_ascii=False) if merge else None, "reset": reset}
    return {
        **specification,
        "configurationUpdate": {key: value for key, value in wanted.items() if value},
    }


def _settings(name: str, text: Any) -> Json:
    """Read a configurationUpdate's merge."""
    try:
        settings = parse_json(text)
    except (TypeError, ValueError):
        settings = None
    if not isinstance(settings, dict):
        raise InvalidConfiguration(f"{name}: configurationUpdate.merge isn't an object as text.")
    return settings


def _merged(first: Json, second: Json) -> Json:
    """Merge as a device does: objects key by key, everything else whole."""
    result = dict(first)
    for key, value in second.items():
        both = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = _merged(result[key], value) if both else value
    return result


def _without(values: Json, pointer: str) -> Json:
    """Return `values` without what the JSON pointer (RFC 6901) names."""
    if not pointer:
        return {}
    key, slash, rest = pointer[1:].partition("/")
    key = key.replace("~1", "/").replace("~0", "~")
    left = {name: value for name, value in values.items() if name != key}
    if slash and isinstance(values.get(key), dict):
        inner = _without(values[key], f"/{rest}")
        return {**left, key: inner} if inner else left
    return dict(values) if slash else left


def differences(before: Json, after: Json) -> List[str]:
    """Say for every component what the new request changes, in lines to print."""
    old, new = before.get("components", {}), after["components"]
    return [_difference(name, old.get(name), new.get(name)) for name in sorted({*old, *new})]


def _difference(name: str, old: Any, new: Any) -> str:
    if old is None:
        return f"  + {name} {new['componentVersion']}"
    if new is None:
        return f"  - {name} {old['componentVersion']}"
    if old == new:
        return f"    {name} {new['componentVersion']}"
    versions = dict.fromkeys([old["componentVersion"], new["componentVersion"]])
    configured = old.get("configurationUpdate") != new.get("configurationUpdate")
    return f"  ~ {name} {' → '.join(versions)}{', configuration' if configured else ''}"
