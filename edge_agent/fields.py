"""The rules for everything a person writes by hand: frozen, strict, unknown keys named back."""

from __future__ import annotations

from typing import Any, Sequence, Type, TypeVar

from pydantic import BaseModel, ConfigDict, SecretStr, ValidationError

MOST_SENTENCES = 20


class Strict(BaseModel):
    """A frozen group of fields; an unknown key or a value of the wrong type is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


T = TypeVar("T", bound=Strict)


def read(kind: Type[T], values: Any) -> T:
    """Build `kind` from settings; "5" and "true" count as numbers and booleans.

    Raises ValueError: a sentence for every wrong field.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise ValueError(_sentences(kind, error)) from None


def read_json(kind: Type[T], content: bytes) -> T:
    """Build `kind` from JSON text; every value must have its own JSON type.

    Raises ValueError: a sentence for every wrong field.
    """
    try:
        return kind.model_validate_json(content, strict=True)
    except ValidationError as error:
        raise ValueError(_sentences(kind, error)) from None


def _sentences(kind: Type[Strict], error: ValidationError) -> str:
    items = error.errors()
    # pydantic counts only the valid items of a tuple, so that one with wrong items seems too short.
    wrong = {item["loc"][:end] for item in items for end in range(len(item["loc"]))}
    told = [item for item in items if item["type"] != "too_short" or item["loc"] not in wrong]
    more = [f"and {len(told) - MOST_SENTENCES} more"] if len(told) > MOST_SENTENCES else []
    return "; ".join([_sentence(kind, item) for item in told[:MOST_SENTENCES]] + more)


def _sentence(kind: Type[Strict], item: Any) -> str:
    where = ".".join(str(part) for part in item["loc"]) or "the whole document"
    if item["type"] == "extra_forbidden":
        known = ", ".join(sorted(_group(kind, item["loc"][:-1]).model_fields))
        return f"{where}: unknown key; known here: {known}"
    if item["type"] == "value_error":
        return f"{where}: {item['ctx']['error']}"
    told = item["type"] != "missing" and not is_secret(kind, item["loc"])
    came = f" (it is {_short(item['input'])})" if told else ""
    message = item["msg"]
    return f"{where}: {message[0].lower()}{message[1:]}{came}"


def is_secret(kind: Type[Strict], path: Sequence[Any]) -> bool:
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


def _short(value: Any) -> str:
    if isinstance(value, (dict, list, tuple)):  # a secret may stand somewhere in it
        return "an object" if isinstance(value, dict) else "a list"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _group(kind: Type[Strict], path: Any) -> Type[Strict]:
    """Follow `path` through the annotations to the group the unknown key was found in."""
    for part in path:
        if isinstance(part, int):
            continue
        kind = groups_in(kind.model_fields[part].annotation)[0]
    return kind


def groups_in(annotation: Any) -> list[Type[Strict]]:
    """Return the groups of fields that an annotation names."""
    if isinstance(annotation, type) and issubclass(annotation, Strict):
        return [annotation]
    return [group for inner in getattr(annotation, "__args__", ()) for group in groups_in(inner)]
