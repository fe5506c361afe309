"""A request of CreateDeployment, checked as the service model of greengrassv2 has it."""

from __future__ import annotations

import json
import math
import re
from typing import Any, Callable, Dict, Tuple, Type, Union

from edge_agent.errors import InvalidConfiguration
from edge_agent.manifest import NAME_PATTERN

Test = Tuple[Callable[[Any], bool], str]  # and what the value must be


def text(shortest: int, longest: int) -> Test:
    """Of so many characters."""

    def good(value: Any) -> bool:
        return isinstance(value, str) and shortest <= len(value) <= longest

    return good, f"text of {shortest} to {longest} characters"


def like(pattern: str, longest: int, expected: str) -> Test:
    """Text of that pattern, which `expected` puts in words."""

    def good(value: Any) -> bool:
        is_text = isinstance(value, str) and len(value) <= longest
        return is_text and bool(re.fullmatch(pattern, value, re.DOTALL))

    return good, expected


def number(kind: Union[Type[int], Tuple[Type[int], Type[float]]], low: float, high: float) -> Test:
    """Of that kind, in that range."""

    def good(value: Any) -> bool:
        return isinstance(value, kind) and not isinstance(value, bool) and low <= value <= high

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


def to_json(request: Dict[str, Any]) -> bytes:
    """Return the request as JSON. Raises InvalidConfiguration: what the service would refuse."""
    check(request, REQUEST, "")
    return json.dumps(request, indent=2, ensure_ascii=False).encode() + b"\n"


def check(value: Any, schema: Any, path: str) -> None:
    """Raise InvalidConfiguration, naming `path`. Sentences cite no values: those may be secret."""
    if isinstance(schema, tuple):
        good, expected = schema
        if not good(value):
            raise InvalidConfiguration(f"{path} must be {expected}.")
    elif isinstance(schema, list):
        if not isinstance(value, list) or (not value and isinstance(schema[0], dict)):
            raise InvalidConfiguration(f"{path} must be a list that isn't empty.")
        for place, inner in enumerate(value):
            check(inner, schema[0], f"{path}.{place}")
    elif not isinstance(value, dict):
        raise InvalidConfiguration(f"{path} must be an object.")
    else:
        _check_object(value, schema, f"{path}." if path else "")


def _check_object(value: Dict[str, Any], schema: Dict[str, Any], prefix: str) -> None:
    known = {key.rstrip("!"): inner for key, inner in schema.items()}
    if "" in value:
        raise InvalidConfiguration(f"{prefix[:-1]} has a key that is empty.")
    for key in (name[:-1] for name in schema if name.endswith("!")):
        if key not in value:
            raise InvalidConfiguration(f"{prefix}{key} is missing.")
    for key, inner in value.items():
        if key not in known and "*" not in known:
            raise InvalidConfiguration(
                f"{prefix}{key} is an unknown key; known here: {', '.join(sorted(known))}."
            )
        check(inner, known.get(key, known.get("*")), prefix + key)
