"""Reads a file written by hand or by the AWS command line: JSON or YAML, plain values only."""

from __future__ import annotations

import base64
import codecs
import json
import math
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, List, Optional, Type, Union

from edge_agent.errors import InvalidConfiguration
from edge_agent.fields import kind_of, parse_json
from edge_agent.packaging.json_document import Document

if TYPE_CHECKING:
    from yaml import MappingNode, Mark, SafeLoader, ScalarNode

LIMIT_BYTES = 1024 * 1024
DEEPEST = 40
MOST_VALUES = 100_000
LONGEST_NUMBER = 100  # characters
NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")


def read(path: Path) -> Document:
    """Return the object in the file. Raises InvalidConfiguration.

    Only what JSON has: text, numbers, booleans, null, lists and objects with text as keys. An
    answer of `aws greengrassv2 get-component`, or a request to create a component version, is taken
    as the recipe in it.
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
    for key, value in values.items():
        if key.lower() == "inlinerecipe" or (key == "recipe" and "recipeOutputFormat" in values):
            return _parse(path, _recipe_in(path, value))
    return values


def _parse(path: Path, content: bytes) -> Document:
    try:
        text = _text(content)
        values = _from_json(text) if text.lstrip().startswith(("{", "[")) else _from_yaml(text)
        _Check().walk(values)
    except RecursionError:
        raise InvalidConfiguration(f"{path} is nested too deeply.") from None
    except ValueError as error:
        raise InvalidConfiguration(f"{path} can't be read: {error}") from None
    if not isinstance(values, dict):
        raise InvalidConfiguration(
            f"{path} must hold one object, not {kind_of(values)}: a recipe, a deployment or "
            "a packaging job."
        )
    return values


def _text(content: bytes) -> str:
    """Decode UTF-8, or the UTF-16 that Windows writes. Raises ValueError."""
    is_utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return content.decode("utf-16" if is_utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"it isn't UTF-8 text (byte {error.start}); save it as UTF-8") from None


def _recipe_in(path: Path, recipe: object) -> bytes:
    """Return the recipe that stands in another document, as base64 or as text."""
    if isinstance(recipe, str) and ":" in recipe:
        return recipe.encode()
    try:
        if isinstance(recipe, str):
            return base64.b64decode("".join(recipe.split()), validate=True)
    except ValueError:
        pass
    raise InvalidConfiguration(f"{path}: its recipe isn't base64.")


def _from_json(text: str) -> object:
    try:
        values: object = parse_json(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"it isn't JSON: {error}") from None
    return values


def _from_yaml(text: str) -> object:
    try:
        import yaml
    except ImportError:
        raise InvalidConfiguration(
            "Reading YAML needs PyYAML: pip install 'edge-agent[package]'."
        ) from None
    try:
        values: object = yaml.load(text, Loader=_loader())
    except yaml.composer.ComposerError as error:
        raise ValueError(f"it holds a second document{_at(error.problem_mark)}; split it") from None
    except yaml.YAMLError as error:
        where = _at(getattr(error, "problem_mark", None))
        raise ValueError(f"it is neither JSON nor YAML{where}") from None
    except (ArithmeticError, AttributeError, LookupError, TypeError):  # by PyYAML's constructors
        raise ValueError("it has a value that doesn't fit its tag (!!...)") from None
    return values


def _at(mark: Optional[Mark]) -> str:
    return f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""


def _loader() -> Type[SafeLoader]:
    import yaml

    class Loader(yaml.SafeLoader):  # type: ignore[misc]
        """Refuses what grows without limit or says two things at once: merges, numbers to the base
        60 or too long; leaves dates, as 2020-01-25, text.
        """  # noqa: D205

        yaml_implicit_resolvers = {  # noqa: RUF012
            first: [(tag, pattern) for tag, pattern in found if not tag.endswith(":timestamp")]
            for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
        }

        def flatten_mapping(self, node: MappingNode) -> None:
            if any(key.tag.endswith(":merge") for key, _ in node.value):
                where = _at(node.start_mark)
                raise ValueError(f"it merges objects ('<<'){where}; write the values out")
            super().flatten_mapping(node)

        def construct_scalar(self, node: ScalarNode) -> str:
            value: str = super().construct_scalar(node)
            if node.tag in NUMBERS:
                _check_number(value, _at(node.start_mark))
            return value

        def construct_mapping(self, node: MappingNode, deep: bool = False) -> Document:
            keys = Counter(key.value for key, _ in node.value if isinstance(key.value, str))
            twice = sorted(key for key, times in keys.items() if times > 1)
            if twice:
                where = _at(node.start_mark)
                raise ValueError(f"key {twice[0]!r} stands twice in one object{where}")
            values: Document = super().construct_mapping(node, deep)
            return values

    return Loader


def _check_number(text: str, where: str) -> None:
    if ":" in text:  # PyYAML's time for it grows with the square of its length
        raise ValueError(f"it has a number to the base 60, as 1:30{where}; put it in quotes")
    if len(text) > LONGEST_NUMBER:
        raise ValueError(f"it has a number of {len(text)} characters{where}")


class _Check:
    """Raises ValueError for what JSON doesn't have, and for aliases that multiply."""

    def __init__(self) -> None:
        self._values = self._characters = 0
        self._way: List[int] = []  # ids of the objects and lists around

    def walk(self, value: object, path: str = "") -> None:
        self._values += 1
        self._characters += len(value) if isinstance(value, str) else 0
        if self._values > MOST_VALUES or self._characters > LIMIT_BYTES:
            raise ValueError(
                f"it uses an alias (*name) too often, or holds more than {MOST_VALUES} values"
            )
        if len(self._way) > DEEPEST:
            raise ValueError(f"it is nested more than {DEEPEST} levels deep")
        if isinstance(value, (dict, list)):
            self._enter(value, path)
        elif isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{path}it has a number that isn't finite")
        elif value is not None and not isinstance(value, (str, int, float)):
            kind = type(value).__name__
            raise ValueError(f"{path}it has a value of type {kind}, which JSON doesn't have")

    def _enter(self, value: Union[Document, List[object]], path: str) -> None:
        if id(value) in self._way:
            raise ValueError(f"{path}it uses an alias (*name) inside what that names")
        self._way.append(id(value))
        for key, entry in value.items() if isinstance(value, dict) else enumerate(value):
            if isinstance(value, dict) and not isinstance(key, str):
                raise ValueError(  # noqa: TRY004 - it's the document's fault
                    f"{path}key {key!r} isn't text; put it in quotes"
                )
            self.walk(entry, f"{path[:-2]}.{key}: " if path else f"{key}: ")
        self._way.pop()
