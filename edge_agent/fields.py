"""The rules for documents that people write: frozen, strict, an unknown key is an error."""

from __future__ import annotations

import json
import math
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Dict, List, Mapping, Sequence, Tuple, Type, TypeVar, Union

from pydantic import BaseModel, ConfigDict, SecretStr, ValidationError

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

MOST_SENTENCES = 20


class WrongValue(ValueError):
    """What a validator expected; the value that came, which isn't secret, is cited beside it."""


class Strict(BaseModel):
    """A frozen group of fields; an unknown key or a value of the wrong type is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


T = TypeVar("T", bound=Strict)

LONGEST_INTEGER = 400  # digits; converting them takes the square of their number


KINDS: Dict[type, str] = {dict: "an object", list: "a list", str: "text", bool: "true or false"}

GivenBy = Mapping[Tuple[str, ...], str]  # path of a value → where it was given, for people


def read(kind: Type[T], values: object, given_by: GivenBy = MappingProxyType({})) -> T:
    """Build `kind` from settings; "5" and "true" count as numbers and booleans.

    Raises ValueError: a sentence for every wrong field.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise ValueError(_sentences(kind, error, given_by)) from None


def read_json(kind: Type[T], content: bytes) -> T:
    """Build `kind` from JSON text; every value must have its own JSON type.

    The text is read twice: only `parse_json` refuses a key that stands twice, only pydantic's own
    reader is strict and yet takes a list for a tuple.

    Raises ValueError: a sentence for every wrong field, or why it is no JSON to `parse_json`.
    """
    try:
        parse_json(content)
    except ValueError as error:
        raise ValueError(f"the whole document: {error}") from None
    try:
        return kind.model_validate_json(content, strict=True)
    except ValidationError as error:
        raise ValueError(_sentences(kind, error)) from None


def parse_json(content: Union[str, bytes]) -> Any:
    """Return what JSON text holds, as long as all its readers find the same in it.

    Raises ValueError for other text, a key that stands twice in one object, numbers that aren't
    finite or very long, and values nested too deeply.
    """
    try:
        return json.loads(
            content,
            object_pairs_hook=_unique,
            parse_int=_integer,
            parse_float=_finite,
            parse_constant=_finite,
        )
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def kind_of(value: object) -> str:
    """Return what a value of JSON is, for people."""
    return KINDS.get(type(value), "nothing" if value is None else "a number")


def _unique(pairs: List[Tuple[str, object]]) -> Dict[str, object]:
    values = dict(pairs)
    if len(values) < len(pairs):
        seen = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(
                    f"key {short(key)} appears twice in one object; remove one of them"
                )
            seen.add(key)
    return values


def _integer(text: str) -> int:
    if len(text) > LONGEST_INTEGER:
        raise ValueError(f"a number has {len(text)} digits")
    return int(text)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {short(text)} isn't finite")
    return value


def _sentences(
    kind: Type[Strict], error: ValidationError, given_by: GivenBy = MappingProxyType({})
) -> str:
    items = error.errors()
    # pydantic counts only the valid items of a tuple, so that one with wrong items seems too short.
    wrong = {item["loc"][:end] for item in items for end in range(len(item["loc"]))}
    shown = [item for item in items if item["type"] != "too_short" or item["loc"] not in wrong]
    more = [f"and {len(shown) - MOST_SENTENCES} more"] if len(shown) > MOST_SENTENCES else []
    return "; ".join([_sentence(kind, item, given_by) for item in shown[:MOST_SENTENCES]] + more)


def _sentence(kind: Type[Strict], item: ErrorDetails, given_by: GivenBy) -> str:
    path = item["loc"]
    where = ".".join(map(_plain, path)) or "the whole document"
    facts = [f"from {source}" for source in _sources(path, given_by)]
    if item["type"] == "extra_forbidden":
        message = (
            f"unknown key; known here: {', '.join(sorted(_group(kind, path[:-1]).model_fields))}"
        )
    elif item["type"] == "model_type" and path:
        known = ", ".join(sorted(_group(kind, path).model_fields))
        message = f"a group of settings is expected, an object with keys of these: {known}"
    elif item["type"] == "value_error":
        message = str(item["ctx"]["error"])
        if isinstance(item["ctx"]["error"], WrongValue):
            facts.insert(0, f"it is {short(item['input'])}")
    else:
        message = item["msg"][0].lower() + item["msg"][1:]
        # In place of a group came something that may hold its secrets.
        if not (item["type"] in ("missing", "model_type") or is_secret(kind, path)):
            facts.insert(0, f"it is {short(item['input'])}")
    return f"{where}: {message}" + (f" ({', '.join(facts)})" if facts else "")


def _sources(path: Sequence[object], given_by: GivenBy) -> List[str]:
    """Return where the value at `path` was given, or those below it that were given one by one."""
    below = [source for given, source in given_by.items() if given[: len(path)] == tuple(path)]
    above = [
        source
        for given, source in sorted(given_by.items(), key=lambda one: -len(one[0]))
        if tuple(path[: len(given)]) == given
    ]
    return list(dict.fromkeys(below if path and below else above[:1]))


def _plain(part: object) -> str:
    """Name a key in a sentence, which may get into a log; strangers choose what it holds."""
    text = str(part)
    return text if text.isprintable() else repr(text)


def is_secret(kind: Type[Strict], path: Sequence[object]) -> bool:
    """Whether `path` leads to a secret field of `kind`, or into one."""
    for part in path:
        field = kind.model_fields.get(part) if isinstance(part, str) else None
        if field is None:
            continue
        if SecretStr in (field.annotation, *getattr(field.annotation, "__args__", ())):
            return True
        groups = groups_in(field.annotation)
        if not groups:
            return False
        kind = groups[0]
    return False


def short(value: object) -> str:
    """Return a value for a sentence: at most 60 characters, and no secret of an object."""
    if isinstance(value, (dict, list, tuple)):  # a secret may stand somewhere in it
        return "an object" if isinstance(value, dict) else "a list"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _group(kind: Type[Strict], path: Sequence[Union[str, int]]) -> Type[Strict]:
    """Return the group that the unknown key at the end of `path` was found in."""
    for part in path:
        if isinstance(part, int):
            continue
        kind = groups_in(kind.model_fields[part].annotation)[0]
    return kind


def groups_in(annotation: object) -> list[Type[Strict]]:
    """Return the groups of fields that an annotation names."""
    if isinstance(annotation, type) and issubclass(annotation, Strict):
        return [annotation]
    return [group for inner in getattr(annotation, "__args__", ()) for group in groups_in(inner)]
