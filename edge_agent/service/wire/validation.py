"""Whether parameters keep what the service model says: required, limits, patterns and enums.

Every violation is reported, in AWS's words, with AWS's paths such as `tags.1.member.key`.
"""

from __future__ import annotations

from typing import Any, Iterator, Mapping

from botocore.model import Shape, StructureShape

from edge_agent.service.faults import ValidationFailed
from edge_agent.service.wire.patterns import compiled

SHOWN_CHARACTERS = 256  # of a wrong value


def validate(shape: StructureShape, parameters: Mapping[str, Any]) -> None:
    """Raise ValidationFailed with every violation, if there is one.

    `parameters`: values by the names of the shape's members, of the types that the shape has.
    """
    found = list(_of_members(shape, parameters, ""))
    if found:
        errors = "error" if len(found) == 1 else "errors"
        raise ValidationFailed(f"{len(found)} validation {errors} detected: {'; '.join(found)}")


def _of_members(shape: StructureShape, values: Mapping[str, Any], prefix: str) -> Iterator[str]:
    for name, member in shape.members.items():
        path = f"{prefix}{name[0].lower()}{name[1:]}"
        if name in values:
            yield from _of_value(member, values[name], path)
        elif name in shape.required_members:
            yield _violation(" null", path, "Member must not be null")


def _of_value(shape: Shape, value: Any, path: str) -> Iterator[str]:
    broken = list(_broken(shape, value))
    for constraint in broken:
        yield _violation(_shown(value), path, constraint)
    if shape.type_name == "structure":
        yield from _of_members(shape, value, f"{path}.")
    elif shape.type_name == "list" and not broken:
        for number, item in enumerate(value, start=1):
            yield from _of_value(shape.member, item, f"{path}.{number}.member")


def _broken(shape: Shape, value: Any) -> Iterator[str]:
    rules = shape.metadata
    has_length = isinstance(value, (str, bytes, list))
    size, kind = (len(value), "length") if has_length else (value, "value")
    if "min" in rules and size < rules["min"]:
        yield f"Member must have {kind} greater than or equal to {rules['min']}"
    if "max" in rules and size > rules["max"]:
        yield f"Member must have {kind} less than or equal to {rules['max']}"
    if "enum" in rules and value not in rules["enum"]:
        yield f"Member must satisfy enum value set: [{', '.join(rules['enum'])}]"
    if "pattern" in rules and not compiled(rules["pattern"]).fullmatch(value):
        yield f"Member must satisfy regular expression pattern: {rules['pattern']}"


def _violation(shown: str, path: str, constraint: str) -> str:
    return f"Value{shown} at '{path}' failed to satisfy constraint: {constraint}"


def _shown(value: Any) -> str:
    if not isinstance(value, (str, int, float)):
        return ""
    text = str(value)
    return f" '{text[:SHOWN_CHARACTERS]}{'...' if len(text) > SHOWN_CHARACTERS else ''}'"
