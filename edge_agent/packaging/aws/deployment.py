"""The request of CreateDeployment: checked as greengrassv2's model has it, and revised.

A deployment replaces everything the one before it put on its target, so the new one starts from the
old one: what isn't named stays.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, field, replace
from typing import Callable, Dict, Iterator, List, Mapping, Tuple, Type, Union

from edge_agent.errors import InvalidConfiguration
from edge_agent.manifest import NAME_PATTERN
from edge_agent.packaging.json_document import Document, inner, parse

REQUEST_KEYS = (
    "deploymentName", "components", "deploymentPolicies", "iotJobConfiguration", "tags",
)  # fmt: skip
# What get_deployment returns beyond what a request holds.
ANSWER_KEYS = (
    "deploymentId", "revisionId", "deploymentStatus", "iotJobId", "iotJobArn",
    "creationTimestamp", "isLatestForTarget", "ResponseMetadata",
)  # fmt: skip

Test = Tuple[Callable[[object], bool], str]  # and what the value must be


def text(shortest: int, longest: int) -> Test:
    """Of so many characters."""

    def good(value: object) -> bool:
        return isinstance(value, str) and shortest <= len(value) <= longest

    return good, f"text of {shortest} to {longest} characters"


def like(pattern: str, longest: int, expected: str) -> Test:
    """Text of that pattern, which `expected` puts in words."""

    def good(value: object) -> bool:
        if not isinstance(value, str) or len(value) > longest:
            return False
        return bool(re.fullmatch(pattern, value, re.DOTALL))

    return good, expected


def number(kind: Union[Type[int], Tuple[Type[int], Type[float]]], low: float, high: float) -> Test:
    """Of that kind, in that range."""

    def good(value: object) -> bool:
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            return False
        return isinstance(value, kind) and low <= value <= high

    return good, f"a {'whole number' if kind is int else 'number'} from {low} to {high}"


def word(*words: str) -> Test:
    """One of them."""
    return (lambda value: value in words), f"one of {', '.join(words)}"


REAL = (int, float)
LARGEST = 2**31 - 1
SECONDS = number(int, 0, LARGEST)
WITHIN = {"timeoutInSeconds": SECONDS}
ONE_OR_MORE = number(int, 1, LARGEST)
PER_MINUTE = number(int, 1, 1000)
TARGET = like(
    r"arn:[^:]*:iot:[^:]*:[0-9]+:(thing|thinggroup)/.+", 2048,
    "the ARN of a thing or a group, such as arn:aws:iot:eu-west-1:123456789012:thinggroup/NAME",
)  # fmt: skip
ANY_TARGET = "arn:aws:iot:eu-west-1:123456789012:thing/any"  # to check a request without its own
NAME = like(NAME_PATTERN, 128, "up to 128 letters, digits, -, _ and .")
VERSION = like(r"[0-9]+(\.[0-9]+){2}([-+][0-9A-Za-z.+-]+)?", 64, "a version such as 1.0.0")
POINTER = like(r"(/.*)?", 256, "a JSON pointer such as /Autostart, or empty for all settings")
DEPLOYMENT_NAME = text(1, 256)

# {"*": ...}: keys are names; "key!": needed. Without what belongs to one call or a subdeployment.
COMPONENT = {
    "componentVersion!": VERSION,
    "configurationUpdate": {"merge": text(1, 10485760), "reset": [text(0, 256)]},
    "runWith": {
        "posixUser": text(1, 1024),
        "windowsUser": text(1, 1024),
        "systemResourceLimits": {
            "memory": number(int, 0, 2**53),
            "cpus": number(REAL, 0, math.inf),
        },
    },
}
JOB = {
    "jobExecutionsRolloutConfig": {
        "maximumPerMinute": PER_MINUTE,
        "exponentialRate": {
            "baseRatePerMinute!": PER_MINUTE,
            "incrementFactor!": number(REAL, 1, 5),
            "rateIncreaseCriteria!": {
                "numberOfNotifiedThings": ONE_OR_MORE,
                "numberOfSucceededThings": ONE_OR_MORE,
            },
        },
    },
    "abortConfig": {
        "criteriaList!": [
            {
                "failureType!": word("FAILED", "REJECTED", "TIMED_OUT", "ALL"),
                "action!": word("CANCEL"),
                "thresholdPercentage!": number(REAL, 0, 100),
                "minNumberOfExecutedThings!": ONE_OR_MORE,
            }
        ]
    },
    "timeoutConfig": {"inProgressTimeoutInMinutes": ONE_OR_MORE},
}
POLICIES = {
    "failureHandlingPolicy": word("ROLLBACK", "DO_NOTHING"),
    "componentUpdatePolicy": {
        **WITHIN,
        "action": word("NOTIFY_COMPONENTS", "SKIP_NOTIFY_COMPONENTS"),
    },
    "configurationValidationPolicy": WITHIN,
}
REQUEST = {
    "targetArn!": TARGET,
    "deploymentName": DEPLOYMENT_NAME,
    "components!": {"*": COMPONENT},
    "deploymentPolicies": POLICIES,
    "iotJobConfiguration": JOB,
    "tags": {"*": text(0, 256)},
}


def as_request(deployment: Document) -> Document:
    """Return a deployment as the API writes it: its keys, and settings to merge as JSON text.

    People and CloudFormation write keys in other cases, and settings as an object. What isn't known
    stays, null is left out. Raises InvalidConfiguration for a key that stands there twice.
    """
    values = {**REQUEST, **dict.fromkeys(ANSWER_KEYS)}
    request: Document = inner({"": _canonical(deployment, values, "")}, "")
    components = request.get("components")
    for component in components.values() if isinstance(components, dict) else ():
        update = component.get("configurationUpdate") if isinstance(component, dict) else None
        if isinstance(update, dict) and isinstance(update.get("merge"), dict):
            update["merge"] = json.dumps(update["merge"], ensure_ascii=False)
    return request


def _canonical(value: object, schema: object, path: str) -> object:
    if isinstance(value, list) and isinstance(schema, list):
        return [_canonical(entry, schema[0], path) for entry in value]
    if not isinstance(value, dict) or not isinstance(schema, dict):
        return value
    known = {key.rstrip("!").lower(): (key.rstrip("!"), rule) for key, rule in schema.items()}
    found: Document = {}
    for given, entry in value.items():
        name, rule = known.get(given.lower(), (given, schema.get("*")))
        if name in found:
            raise InvalidConfiguration(f"{path}{name} stands there twice, in different case.")
        if entry is not None:
            found[name] = _canonical(entry, rule, f"{path}{name}.")
    return found


def to_json(request: Document) -> bytes:
    """Return the request as JSON. Raises InvalidConfiguration: what the service would refuse."""
    check(request, REQUEST, "")
    return json.dumps(request, indent=2, ensure_ascii=False).encode() + b"\n"


def check(value: object, schema: object, path: str) -> None:
    """Raise InvalidConfiguration that names all that is wrong, by its path from `path` on.

    Sentences cite no values: those may be secret.
    """
    found = list(problems(value, schema, path))
    if found:
        raise InvalidConfiguration(" ".join(found))


def problems(value: object, schema: object, path: str) -> Iterator[str]:
    """Yield a sentence for each thing that `check` refuses."""
    if isinstance(schema, tuple):
        good, expected = schema
        if not good(value):
            yield f"{path} must be {expected}."
    elif isinstance(schema, list):
        if not isinstance(value, list) or (not value and isinstance(schema[0], dict)):
            yield f"{path} must be a list that isn't empty."
            return
        for place, entry in enumerate(value):
            yield from problems(entry, schema[0], f"{path}.{place}")
    elif not isinstance(value, dict):
        yield f"{path} must be an object."
    elif isinstance(schema, dict):
        yield from _problems_of(value, schema, f"{path}." if path else "")


def _problems_of(value: Document, schema: Mapping[str, object], prefix: str) -> Iterator[str]:
    known = {key.rstrip("!"): rule for key, rule in schema.items()}
    if "" in value:
        yield f"{prefix[:-1]} has a key that is empty."
    for key in (name[:-1] for name in schema if name.endswith("!")):
        if key not in value:
            yield f"{prefix}{key} is missing."
    for key, entry in value.items():
        if key not in known and "*" not in known:
            yield f"{prefix}{key} is an unknown key; known here: {', '.join(sorted(known))}."
        else:
            yield from problems(entry, known.get(key, known.get("*")), prefix + key)


@dataclass(frozen=True)
class Change:
    """What is requested; components by name."""

    versions: Dict[str, str] = field(default_factory=dict)
    merges: Dict[str, Document] = field(default_factory=dict)
    resets: List[Tuple[str, str]] = field(default_factory=list)  # name, JSON pointer; "" is all
    removed: List[str] = field(default_factory=list)
    name: str = ""
    policies: Document = field(default_factory=dict)
    job: Document = field(default_factory=dict)

    def alters(self, request: Document) -> bool:
        """Whether anything is requested, beside removing what `request` doesn't have."""
        there = set(self.removed) & set(inner(request, "components"))
        return replace(self, removed=sorted(there)) != Change()


def repeatable(deployment: Mapping[str, object]) -> Document:
    """Return what a new request may repeat of a deployment, as get_deployment returns it."""
    tags = inner(deployment, "tags")
    own = {key: value for key, value in tags.items() if not key.startswith("aws:")}
    request = {**{key: deployment.get(key) for key in REQUEST_KEYS}, "tags": own}
    return {key: value for key, value in request.items() if value}


def joined(first: Document, second: Document) -> Document:
    """Return a request that has all of both; of what both have, the second's."""
    components = {**inner(first, "components"), **inner(second, "components")}
    return {**first, **second, "components": components}


def revised(request: Document, change: Change) -> Document:
    """Return the request with `change` made. Raises InvalidConfiguration."""
    components = dict(inner(request, "components"))
    for name in change.removed:
        components.pop(name, None)
    for name, version in change.versions.items():
        components[name] = {**inner(components, name), "componentVersion": version}
    for name in sorted({*change.merges, *(name for name, _ in change.resets)}):
        if name not in components:
            raise InvalidConfiguration(f"{name} can't be configured: {_missing(components)}")
        components[name] = _configured(inner(components, name), name, change)
    changed: Document = {
        **request,
        "components": components,
        "deploymentName": change.name or request.get("deploymentName"),
        "deploymentPolicies": {**inner(request, "deploymentPolicies"), **change.policies},
        "iotJobConfiguration": {**inner(request, "iotJobConfiguration"), **change.job},
    }
    return {key: value for key, value in changed.items() if value or key == "components"}


def absent(request: Document, change: Change) -> List[str]:
    """Return a sentence for every component that is to be removed but isn't in `request`."""
    components = inner(request, "components")
    missing = [name for name in change.removed if name not in components]
    return [f"--remove {name}: {_missing(components)}" for name in missing]


def _missing(components: Document) -> str:
    known = ", ".join(sorted(components)) or "none"
    return f"it isn't in the deployment. Components in it: {known}."


def _configured(specification: Document, name: str, change: Change) -> Document:
    """Return the component with its configuration changed.

    A device resets first and merges then, so what is reset leaves the merge that stays.
    """
    update = inner(specification, "configurationUpdate", f"{name}: configurationUpdate")
    merge, reset = merge_of(name, update), reset_of(name, update)
    for pointer in (pointer for owner, pointer in change.resets if owner == name):
        merge = _without(merge, pointer)
        reset += [] if pointer in reset else [pointer]
    merge = _merged(merge, change.merges.get(name, {}))
    changed = {"merge": json.dumps(merge, ensure_ascii=False) if merge else None, "reset": reset}
    return {
        **specification,
        "configurationUpdate": {key: value for key, value in changed.items() if value},
    }


def merge_of(name: str, update: Document) -> Document:
    """Return the settings of a configurationUpdate. Raises InvalidConfiguration."""
    merge = update.get("merge") or {}
    return merge if isinstance(merge, dict) else parse(merge, f"{name}: configurationUpdate.merge")


def reset_of(name: str, update: Document) -> List[str]:
    """Return the JSON pointers of settings to reset. Raises InvalidConfiguration."""
    pointers = update.get("reset") or []
    if not isinstance(pointers, list) or not all(isinstance(one, str) for one in pointers):
        raise InvalidConfiguration(
            f"{name}: configurationUpdate.reset must be a list of JSON pointers."
        )
    return list(pointers)


def _merged(first: Document, second: Document) -> Document:
    """Merge as a device does: objects key by key, everything else whole."""
    result = dict(first)
    for key, value in second.items():
        old = result.get(key)
        both = isinstance(value, dict) and isinstance(old, dict)
        result[key] = _merged(inner(result, key), inner(second, key)) if both else value
    return result


def _without(values: Document, pointer: str) -> Document:
    """Return `values` without what the JSON pointer (RFC 6901) names."""
    if not pointer:
        return {}
    key, slash, rest = pointer[1:].partition("/")
    key = key.replace("~1", "/").replace("~0", "~")
    left = {name: value for name, value in values.items() if name != key}
    if slash and isinstance(values.get(key), dict):
        remaining = _without(inner(values, key), f"/{rest}")
        return {**left, key: remaining} if remaining else left
    return dict(values) if slash else left


def differences(before: Mapping[str, object], after: Document) -> List[str]:
    """Return, for every component, a line with what the new request changes."""
    old, new = inner(before, "components"), inner(after, "components")
    return [_difference(name, inner(old, name), inner(new, name)) for name in sorted({*old, *new})]


def _difference(name: str, old: Document, new: Document) -> str:
    if not old:
        return f"  + {name} {new['componentVersion']}"
    if not new:
        return f"  - {name} {old['componentVersion']}"
    if old == new:
        return f"    {name} {new['componentVersion']}"
    versions = dict.fromkeys([str(old["componentVersion"]), str(new["componentVersion"])])
    configured = old.get("configurationUpdate") != new.get("configurationUpdate")
    return f"  ~ {name} {' → '.join(versions)}{', configuration' if configured else ''}"
