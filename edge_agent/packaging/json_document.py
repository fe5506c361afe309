"""JSON documents of people and of AWS: read whole, and narrowed to what must stand where."""

from __future__ import annotations

from pathlib import Path
from typing import Dict, List, Mapping

from edge_agent.errors import InvalidConfiguration
from edge_agent.fields import kind_of, parse_json

Document = Dict[str, object]


def read(path: Path, option: str = "") -> Document:
    """Return the object in a file, which `option` named. Raises InvalidConfiguration."""
    try:
        values = parse_json(path.read_bytes())
    except OSError as error:
        raise InvalidConfiguration(f"{option}{path} can't be read: {error.strerror}.") from None
    except ValueError as error:
        raise InvalidConfiguration(f"{option}{path} isn't JSON: {error}.") from None
    if not isinstance(values, dict):
        raise InvalidConfiguration(
            f"{option}{path} must hold one JSON object, not {kind_of(values)}."
        )
    return values


def parse(text: object, title: str) -> Document:
    """Return the object in JSON text that stands inside JSON. Raises InvalidConfiguration."""
    try:
        values = parse_json(text) if isinstance(text, (str, bytes)) else None
    except ValueError:
        values = None
    if not isinstance(values, dict):
        raise InvalidConfiguration(f"{title} must be the text of a JSON object.")
    return values


def inner(values: Mapping[str, object], key: str, title: str = "") -> Document:
    """Return the object at `key`; empty when there is none. Raises InvalidConfiguration."""
    value = values.get(key) or {}
    if not isinstance(value, dict):
        raise InvalidConfiguration(f"{title or key} must be an object.")
    return value


def objects(values: Mapping[str, object], key: str) -> List[Document]:
    """Return the objects in the list at `key`, or none. Raises InvalidConfiguration."""
    value = values.get(key) or []
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        raise InvalidConfiguration(f"{key} must be a list of objects.")
    return value
