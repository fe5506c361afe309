"""Values as JSON, by their shapes, both directions; any protocol with a JSON body uses them.

In JSON timestamps are seconds since 1970 and blobs are base64; in Python they are aware datetimes
and bytes. Members that a shape doesn't know are left out of a request, and an error in an answer.
"""

from __future__ import annotations

import base64
import binascii
import json
from datetime import datetime, timezone
from typing import Any, Callable, Dict, List, Mapping, Tuple

from botocore.model import ListShape, Shape, StructureShape

from edge_agent.service.wire.faults import AnswerMismatch, MalformedRequest

LARGEST_INTEGER = 2**31 - 1


def json_object(body: bytes) -> Dict[str, Any]:
    """Return the object that a body is, an empty one for an empty body."""
    try:
        found = json.loads(body.decode(), parse_constant=_no_number) if body else {}
    except (ValueError, RecursionError):
        raise MalformedRequest("The body isn't JSON in UTF-8.") from None
    if not isinstance(found, dict):
        raise MalformedRequest("The body must be a JSON object, {...}.")
    return found


def from_json(shape: Shape, value: object, path: str) -> Any:
    """Return the value that JSON stands for; raise MalformedRequest when its type is wrong."""
    return _READERS[shape.type_name](shape, value, path)


def to_json(shape: Shape, value: Any, path: str) -> object:
    """Return a value of an answer as JSON; raise AnswerMismatch when its type is wrong."""
    types, written = _WRITERS[shape.type_name]
    is_boolean = shape.type_name == "boolean"
    if not isinstance(value, types) or isinstance(value, bool) != is_boolean:
        raise AnswerMismatch(f"{path} must be of type {shape.type_name}: {type(value).__name__}")
    return written(shape, value, path)


def check_members(shape: StructureShape, values: Mapping[str, Any], path: str) -> None:
    """Raise AnswerMismatch when a structure of an answer has unknown members or lacks some."""
    unknown = sorted(set(values) - set(shape.members))
    missing = sorted(name for name in shape.required_members if values.get(name) is None)
    if unknown or missing:
        raise AnswerMismatch(f"{path} of shape {shape.name}: unknown {unknown}, missing {missing}")


def instant(seconds: float, path: str) -> datetime:
    """Return a time from seconds since 1970; raise MalformedRequest when there is no such year."""
    try:
        return datetime.fromtimestamp(seconds, timezone.utc)
    except (ValueError, OverflowError, OSError):
        raise MalformedRequest(f"{path} must be a time between the years 1 and 9999.") from None


def checked_text(text: str, path: str) -> str:
    """Return a string of Unicode characters; raise MalformedRequest for half a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise MalformedRequest(f"{path} has a character that Unicode doesn't have.") from None
    return text


def _no_number(name: str) -> None:
    raise ValueError(name)


def _wrong(path: str, wanted: str) -> MalformedRequest:
    return MalformedRequest(f"{path} must be {wanted}.")


def _read_structure(shape: StructureShape, value: object, path: str) -> Dict[str, Any]:
    if not isinstance(value, dict):
        raise _wrong(path, "an object, {...}")
    keys = {name: member.serialization.get("name", name) for name, member in shape.members.items()}
    return {
        name: from_json(shape.members[name], value[key], f"{path}.{name}")
        for name, key in keys.items()
        if value.get(key) is not None
    }


def _read_list(shape: ListShape, value: object, path: str) -> List[Any]:
    if not isinstance(value, list):
        raise _wrong(path, "a list, [...]")
    return [from_json(shape.member, item, f"{path}[{n}]") for n, item in enumerate(value)]


def _read_string(_: Shape, value: object, path: str) -> str:
    if not isinstance(value, str):
        raise _wrong(path, "a string")
    return checked_text(value, path)


def _read_integer(_: Shape, value: object, path: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or abs(value) > LARGEST_INTEGER:
        raise _wrong(path, "an integer of 32 bits")
    return value


def _read_boolean(_: Shape, value: object, path: str) -> bool:
    if not isinstance(value, bool):
        raise _wrong(path, "true or false")
    return value


def _read_float(_: Shape, value: object, path: str) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise _wrong(path, "a number")
    try:
        return float(value)
    except OverflowError:
        raise _wrong(path, "a number of 64 bits") from None


def _read_timestamp(shape: Shape, value: object, path: str) -> datetime:
    return instant(_read_float(shape, value, path), path)


def _read_blob(_: Shape, value: object, path: str) -> bytes:
    if not isinstance(value, str):
        raise _wrong(path, "a string in base64")
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise _wrong(path, "a string in base64") from None


def _write_structure(
    shape: StructureShape, value: Mapping[str, Any], path: str
) -> Dict[str, object]:
    check_members(shape, value, path)
    return {
        shape.members[name].serialization.get("name", name): to_json(
            shape.members[name], item, f"{path}.{name}"
        )
        for name, item in value.items()
        if item is not None
    }


def _write_list(shape: ListShape, value: List[Any], path: str) -> List[object]:
    return [to_json(shape.member, item, f"{path}[{n}]") for n, item in enumerate(value)]


def _write_timestamp(_: Shape, value: datetime, path: str) -> float:
    if value.tzinfo is None:
        raise AnswerMismatch(f"{path} must be a time with a time zone")
    return round(value.timestamp(), 3)


def _write_blob(_: Shape, value: bytes, __: str) -> str:
    return base64.b64encode(value).decode()


def _as_it_is(_: Shape, value: object, __: str) -> object:
    return value


_READERS: Dict[str, Callable[[Any, object, str], Any]] = {
    "structure": _read_structure,
    "list": _read_list,
    "string": _read_string,
    "integer": _read_integer,
    "boolean": _read_boolean,
    "float": _read_float,
    "timestamp": _read_timestamp,
    "blob": _read_blob,
}

_WRITERS: Dict[str, Tuple[Tuple[type, ...], Callable[[Any, Any, str], object]]] = {
    "structure": ((dict,), _write_structure),
    "list": ((list, tuple), _write_list),
    "string": ((str,), _as_it_is),
    "integer": ((int,), _as_it_is),
    "boolean": ((bool,), _as_it_is),
    "float": ((int, float), _as_it_is),
    "timestamp": ((datetime,), _write_timestamp),
    "blob": ((bytes,), _write_blob),
}
