"""A component's configuration, as the nucleus tells it, made into a tree for `config.build`.

Its keys are those of the settings, beside the original's `Socket`. What the two nuclei do to it is
undone here: on lite every scalar of a YAML recipe is a string, on classic keys have the spelling
that came first, whatever its case, and the cloud may turn numbers into floats.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, Iterator, Mapping, Type

from pydantic import SecretStr

from edge_agent.config import Settings
from edge_agent.fields import Strict

ACCESS_CONTROL, SOCKET = "accesscontrol", "socket"  # in lower case
EMPTY = (None, "", "null")  # a value so is the setting's default
REMOVE_AFTER_S = 10.0  # an update stops the old version of a model before it starts the new one
STOP_WITHIN_S = 3.0  # the nucleus kills what hasn't ended 5 s after SIGTERM


def settings_tree(configuration: Mapping[str, Any], work: Path) -> Dict[str, Any]:
    """Return a new tree; what isn't known stays in it, to be named by the reader.

    `work` is the component's work folder, where everything lies that has no place of its own.
    """
    others = {key: value for key, value in configuration.items() if key.lower() != ACCESS_CONTROL}
    tree = _group(Settings, others)
    for key in [key for key in tree if key.lower() == SOCKET]:
        _default(tree, "server", "socket", tree.pop(key))
    _default(tree, "server", "stop_within_s", STOP_WITHIN_S)
    _default(tree, "models", "records", str(work / "models.d"))
    _default(tree, "models", "remove_after_s", REMOVE_AFTER_S)
    _default(tree, "engine", "cache", str(work / "engines"))
    _default(tree, "results", "folder", str(work / "results"))
    return tree


def _default(tree: Dict[str, Any], group: str, name: str, value: Any) -> None:
    values = tree.setdefault(group, {})
    if isinstance(values, dict):
        values.setdefault(name, value)


def _group(kind: Type[Strict], values: Mapping[str, Any]) -> Dict[str, Any]:
    fields = kind.model_fields
    spelled = {name.lower(): name for name in fields}
    group: Dict[str, Any] = {}
    for key, value in sorted(values.items(), key=lambda item: item[0] not in fields):
        if value in EMPTY:
            continue
        name = spelled.get(key.lower(), key)
        if name in fields and name not in group:
            group[name] = _value(fields[name].annotation, value)
        else:
            group[key] = value
    return group


def _value(annotation: Any, value: Any) -> Any:
    types = list(_types(annotation))
    if isinstance(value, dict):
        if issubclass(types[0], Strict):
            return _group(types[0], value)
        return {key: inner for key, inner in value.items() if inner not in EMPTY}
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if is_number and any(one in (str, Path, SecretStr) for one in types):
        return str(int(value)) if float(value).is_integer() else str(value)
    return value


def _types(annotation: Any) -> Iterator[type]:
    """Return the classes an annotation is made of."""
    inner = [part for part in getattr(annotation, "__args__", ()) if not isinstance(part, str)]
    for part in inner:
        yield from _types(part)
    if not inner:
        yield annotation if isinstance(annotation, type) else object
