"""Reads a file written by hand or by the AWS command line: JSON or YAML, plain values only."""

from __future__ import annotations

import base64
import json
import math
from collections import Counter
from pathlib import Path
from typing import Any, Dict

from edge_agent.errors import InvalidConfiguration
from edge_agent.fields import parse_json

LIMIT_BYTES = 1024 * 1024
DEEPEST = 40
LONGEST_NUMBER = 100  # characters
NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")


def read(path: Path) -> Dict[str, Any]:
    """Return the object in the file. Raises InvalidConfiguration.

    Only what JSON has: text, numbers, booleans, null, lists and objects with text as keys. An
    answer of `aws greengrassv2 get-component` is taken as the recipe in it.
    """
    try:
        with path.open("rb") as file:
            content = file.read(LIMIT_BYTES + 1)
    except OSError as error:
        raise InvalidConfiguration(f"{path}: {error.strerror}.") from None
    if len(content) > LIMIT_BYTES:
        raise InvalidConfiguration(
            f"{path} has more than {LIMIT_BYTES} bytes; no recipe or deployment is that long."
        )
    values = _parse(path, content)
    if "recipeOutputFormat" in values:
        return _parse(path, _inner(path, values.get("recipe")))
    return values


def _parse(path: Path, content: bytes) -> Dict[str, Any]:
    try:
        text = content.decode("utf-8-sig")
        values = _from_json(text) if text.lstrip().startswith(("{", "[")) else _from_yaml(text)
        _check(values, 0)
    except RecursionError:
        raise InvalidConfiguration(f"{path} is nested too deeply.") from None
    except ValueError as error:
        raise InvalidConfiguration(f"{path} can't be read: {error}") from None
    if not isinstance(values, dict):
        raise InvalidConfiguration(
            f"{path} must hold one object, not {type(values).__name__}: a recipe, a deployment or "
            "a packaging job."
        )
    return values


def _inner(path: Path, recipe: Any) -> bytes:
    try:
        return base64.b64decode(recipe, validate=True)
    except (TypeError, ValueError):
        raise InvalidConfiguration(f"{path}: its recipe isn't base64.") from None


def _from_json(text: str) -> Any:
    try:
        return parse_json(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"it isn't JSON: {error}") from None


def _from_yaml(text: str) -> Any:
    try:
        import yaml
    except ImportError:
        raise InvalidConfiguration(
            "Reading YAML needs PyYAML: pip install 'edge-agent[package]'."
        ) from None
    try:
        return yaml.load(text, Loader=_loader(yaml))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ValueError(f"it is neither JSON nor YAML{where}") from None
    except (ArithmeticError, AttributeError, LookupError, TypeError):  # by PyYAML's constructors
        raise ValueError("it has a value that doesn't fit its tag (!!...)") from None


def _loader(yaml: Any) -> Any:
    class Loader(yaml.SafeLoader):  # type: ignore[misc]
        """Refuses what grows without limit or says two things at once: aliases, merges, numbers
        to the base 60 or too long; leaves dates, as 2020-01-25, text.
        """  # noqa: D205

        yaml_implicit_resolvers = {  # noqa: RUF012
            first: [(tag, pattern) for tag, pattern in found if not tag.endswith(":timestamp")]
            for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
        }

        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                raise ValueError("it uses an alias (*name); write the value out")
            return super().compose_node(parent, index)

        def flatten_mapping(self, node: Any) -> None:
            if any(key.tag.endswith(":merge") for key, _ in node.value):
                raise ValueError("it merges objects ('<<'); write the values out")
            super().flatten_mapping(node)

        def construct_scalar(self, node: Any) -> Any:
            value = super().construct_scalar(node)
            if node.tag in NUMBERS:
                _check_number(value)
            return value

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            keys = Counter(key.value for key, _ in node.value if isinstance(key.value, str))
            twice = sorted(key for key, times in keys.items() if times > 1)
            if twice:
                raise ValueError(f"key {twice[0]!r} stands twice in one object")
            return super().construct_mapping(node, deep)

    return Loader


def _check_number(text: str) -> None:
    if ":" in text:  # PyYAML's time for it grows with the square of its length
        raise ValueError("it has a number to the base 60, as 1:30; put it in quotes")
    if len(text) > LONGEST_NUMBER:
        raise ValueError(f"it has a number of {len(text)} characters")


def _check(value: Any, depth: int) -> None:
    """Raise ValueError for what JSON doesn't have."""
    if depth > DEEPEST:
        raise ValueError(f"it is nested more than {DEEPEST} levels deep")
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str):
                raise ValueError(f"key {key!r} isn't text; put it in quotes")  # noqa: TRY004
            _check(value[key], depth + 1)
    elif isinstance(value, list):
        for inner in value:
            _check(inner, depth + 1)
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError("it has a number that isn't finite")
    elif value is not None and not isinstance(value, (str, int, float)):
        raise ValueError(f"it has a value of type {type(value).__name__}, which JSON doesn't have")
