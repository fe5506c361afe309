"""Values as text, as they stand in paths, queries and headers, by their shapes."""

from __future__ import annotations

import re
from datetime import datetime, timezone
from typing import Any, Callable, Dict

from botocore.model import Shape

from edge_agent.service.wire.faults import MalformedRequest
from edge_agent.service.wire.json_values import LARGEST_INTEGER, instant

_INTEGER = re.compile(r"[+-]?[0-9]{1,10}")
_SECONDS = re.compile(r"-?[0-9]{1,12}(\.[0-9]{1,9})?")
_TIME = re.compile(
    r"(?P<second>[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2})"
    r"(\.(?P<fraction>[0-9]{1,9}))?(?P<zone>Z|[+-][0-9]{2}:[0-9]{2})"
)


def from_text(shape: Shape, text: str, path: str) -> Any:
    """Return the value that a text stands for; raise MalformedRequest when its form is wrong."""
    return _READERS[shape.type_name](text, path)


def _string(text: str, _: str) -> str:
    return text


def _integer(text: str, path: str) -> int:
    if not _INTEGER.fullmatch(text) or abs(int(text)) > LARGEST_INTEGER:
        raise MalformedRequest(f"{path} must be an integer of 32 bits.")
    return int(text)


def _boolean(text: str, path: str) -> bool:
    if text not in ("true", "false"):
        raise MalformedRequest(f"{path} must be true or false.")
    return text == "true"


def _timestamp(text: str, path: str) -> datetime:
    """Read a time of ISO 8601 with its zone, or seconds since 1970."""
    if _SECONDS.fullmatch(text):
        return instant(float(text), path)
    parts = _TIME.fullmatch(text)
    if parts:
        microseconds = f"{parts['fraction'] or ''}000000"[:6]
        zone = parts["zone"].replace("Z", "+00:00")
        try:
            time = datetime.fromisoformat(f"{parts['second']}.{microseconds}{zone}")
            return time.astimezone(timezone.utc)
        except (ValueError, OverflowError):  # such as a 30 February
            pass
    raise MalformedRequest(f"{path} must be a time such as 2026-01-31T12:00:00Z.")


_READERS: Dict[str, Callable[[str, str], Any]] = {
    "string": _string,
    "integer": _integer,
    "boolean": _boolean,
    "timestamp": _timestamp,
}
