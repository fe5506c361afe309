"""Where settings come from: variables of the environment, --set, files; what their texts mean."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from types import MappingProxyType
from typing import Any, Dict, Iterator, List, Mapping, Sequence, Tuple, Type, Union

from pydantic import ValidationError
from typing_extensions import get_args, get_origin

from edge_agent.errors import InvalidConfiguration
from edge_agent.fields import GivenBy, Strict, groups_in, parse_json

log = logging.getLogger(__name__)

ENVIRONMENT_PREFIX = "EDGE_AGENT_"
# The value of variables that Kubernetes and docker set for each service: EDGE_AGENT_PORT=tcp://...
SERVICES = ("tcp://", "udp://", "sctp://")

Tree = Dict[str, object]  # of settings, not validated


def variable(name: str) -> str:
    """Return the variable of a setting, "server.tcp" → "EDGE_AGENT_SERVER__TCP"."""
    return ENVIRONMENT_PREFIX + name.upper().replace(".", "__")


def path_of(name: str) -> List[str]:
    """Return the path of the setting that a variable with our prefix names."""
    return name[len(ENVIRONMENT_PREFIX) :].lower().split("__")


def variables(kind: Type[Strict], environment: Mapping[str, str]) -> Iterator[str]:
    """Yield the variables that name settings of `kind`, or wrong ones.

    Others begin with our prefix as well: those of a service called edge-agent in Kubernetes, or of
    other programs. They are named in the log. Raises InvalidConfiguration for a setting that is
    spelled with single underscores.
    """
    spelled = {"_".join(path): ".".join(path) for path in _paths(kind)}
    strangers = []
    for name in sorted(environment):
        if not name.startswith(ENVIRONMENT_PREFIX):
            continue
        path = path_of(name)
        if len(path) > 1 or (path[0] in kind.model_fields and not _is_service(environment[name])):
            yield name
        elif path[0] in spelled and not _is_service(environment[name]):
            raise InvalidConfiguration(
                f"{name} in the environment: this setting is written {variable(spelled[path[0]])}, "
                "with two underscores."
            )
        else:
            strangers.append(name)
    if strangers:
        log.warning(
            "Not settings of the agent, and ignored: %s in the environment. Settings are written "
            "%sGROUP__NAME, with two underscores.",
            ", ".join(strangers),
            ENVIRONMENT_PREFIX,
        )


def _is_service(value: str) -> bool:
    return value.startswith(SERVICES)


def put(
    kind: Type[Strict],
    tree: Tree,
    path: Sequence[str],
    text: str,
    source: str,
    given_by: GivenBy = MappingProxyType({}),
) -> None:
    """Put what a text holds into a tree of settings of `kind`. Raises InvalidConfiguration.

    A group of settings is a JSON object; a list is a JSON array, or words with commas between.
    """
    for end, part in enumerate(path[:-1], 1):
        group = tree.setdefault(part, {})
        if not isinstance(group, dict):
            group = tree[part] = _spelled_out(kind, path[:end], group, source, given_by)
        tree = group
    is_list = get_origin(_annotation(kind, path)) in (tuple, list)
    if text.lstrip().startswith("{") or (is_list and text.lstrip().startswith("[")):
        tree[path[-1]] = parsed(text, f"{source}: the value")
    elif is_list:
        tree[path[-1]] = [word.strip() for word in text.split(",") if word.strip()]
    else:
        tree[path[-1]] = text


def _spelled_out(
    kind: Type[Strict], path: Sequence[str], value: object, source: str, given_by: GivenBy
) -> Tree:
    """Return the settings of a group for which one word stands. Raises InvalidConfiguration."""
    groups = groups_in(_annotation(kind, path))
    try:
        return groups[0].model_validate(value).model_dump()
    except (IndexError, ValidationError):
        name = ".".join(path)
        origin = next((given_by[key] for key in (tuple(path), ()) if key in given_by), "before it")
        is_group = f"{name} is a group of settings" if groups else f"{name} is no group of settings"
        raise InvalidConfiguration(
            f"{source} doesn't go with the value of {name} from {origin}: {is_group}. Correct one."
        ) from None


def parsed(content: Union[str, bytes], source: str) -> Any:
    """Read JSON; what stands in it isn't shown, it may be a secret. Raises InvalidConfiguration."""
    try:
        return parse_json(content)
    except UnicodeDecodeError:
        raise InvalidConfiguration(f"{source} isn't JSON: it isn't UTF-8 text") from None
    except ValueError as error:
        raise InvalidConfiguration(f"{source} isn't JSON: {error}") from None


def put_home(kind: Type[Strict], tree: Tree, path: str = "") -> None:
    """Replace ~ where paths of settings of `kind` begin with it. Raises InvalidConfiguration."""
    for key, field in kind.model_fields.items():
        value, groups = tree.get(key), groups_in(field.annotation)
        if groups and isinstance(value, dict):
            put_home(groups[0], value, f"{path}{key}.")
        elif isinstance(value, str) and Path in (field.annotation, *get_args(field.annotation)):
            tree[key] = with_home(value, path + key)


def with_home(text: str, setting: str) -> str:
    """Return a path with the home folder in place of ~. Raises InvalidConfiguration without one."""
    found = os.path.expanduser(text)  # noqa: PTH111 - Path.expanduser fails in several ways
    if found.startswith("~"):
        raise InvalidConfiguration(
            f"{setting} is {text!r}, but there is no such home folder: HOME isn't set, and "
            f"/etc/passwd has none for {text.split('/')[0]} (user {os.getuid()}). Write the whole "
            "path."
        )
    return found


def _paths(kind: Type[Strict], above: Tuple[str, ...] = ()) -> Iterator[Tuple[str, ...]]:
    """Yield the path of every setting."""
    for name, field in kind.model_fields.items():
        groups = groups_in(field.annotation)
        if groups:
            yield from _paths(groups[0], (*above, name))
        else:
            yield (*above, name)


def _annotation(annotation: Any, path: Sequence[str]) -> Any:
    """Return the type of the setting at `path`; None: there is none."""
    for part in path:
        groups = groups_in(annotation)
        if groups:
            field = groups[0].model_fields.get(part)
            annotation = field.annotation if field else None
        else:
            annotation = get_args(annotation)[1] if get_origin(annotation) is dict else None
    return annotation
