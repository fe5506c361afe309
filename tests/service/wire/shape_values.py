"""Values by the shapes of the service model: the smallest, complete ones, and any at random."""

from __future__ import annotations

import string
from datetime import datetime, timezone
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Tuple

from botocore.awsrequest import create_request_object, prepare_request_dict
from botocore.model import OperationModel, Shape, StructureShape
from botocore.serialize import create_serializer
from hypothesis import strategies as st

from edge_agent.service.wire.model import LOOKOUT_FOR_VISION, service_model
from edge_agent.service.wire.patterns import compiled

MODEL = service_model(LOOKOUT_FOR_VISION)
OPERATIONS = [MODEL.operation_model(name) for name in MODEL.operation_names]
SERIALIZER = create_serializer("rest-json", include_validation=False)

Path = Tuple[Any, ...]  # names of members; 0 in a list


class Sent(NamedTuple):
    """A request as botocore sends it."""

    method: str
    raw_path: str
    raw_query: str
    headers: Dict[str, str]  # names in lower case
    body: bytes


def sent(operation: OperationModel, parameters: Dict[str, Any]) -> Sent:
    request = SERIALIZER.serialize_to_request(parameters, operation)
    prepare_request_dict(request, endpoint_url="http://127.0.0.1")
    ready = create_request_object(request).prepare()
    path, _, query = ready.url.partition("127.0.0.1")[2].partition("?")
    headers = {name.lower(): _text(value) for name, value in ready.headers.items()}
    body = ready.body or b""
    return Sent(
        ready.method, path, query, headers, body if isinstance(body, bytes) else body.encode()
    )


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def places(shape: Shape, path: Path = ()) -> Iterator[Tuple[Path, Shape]]:
    """Every member below a shape, with where it is."""
    if path:
        yield path, shape
    if shape.type_name == "structure":
        for name, member in shape.members.items():
            yield from places(member, (*path, name))
    elif shape.type_name == "list":
        yield from places(shape.member, (*path, 0))


def with_value(shape: Shape, path: Path, value: Any) -> Any:
    """The smallest value of a shape that has `value` at a place; None: nothing there."""
    if not path:
        return value
    if shape.type_name == "list":
        return [with_value(shape.member, path[1:], value)]
    found = smallest(shape)
    found[path[0]] = with_value(shape.members[path[0]], path[1:], value)
    return {name: item for name, item in found.items() if item is not None}


def smallest(shape: Shape) -> Any:
    rules = shape.metadata
    if shape.type_name == "structure":
        return {name: smallest(shape.members[name]) for name in shape.required_members}
    if shape.type_name == "list":
        return [smallest(shape.member)]
    if shape.type_name == "string":
        return (rules.get("enum") or _texts(shape))[0]
    return {
        "integer": rules.get("min", 0),
        "boolean": False,
        "float": 0.5,
        "timestamp": datetime(2026, 1, 31, 12, 0, 0, 5000, tzinfo=timezone.utc),
        "blob": b"x" * rules.get("min", 1),
    }[shape.type_name]


WORDS = (
    "train", "test", "normal", "anomaly", "latest", "direct", "1.0.0", "123456.123456.123456",
    "#23A436", "arn:aws:greengrass:us-east-1:aws:components:a",
)  # fmt: skip


def words_of(shape: Shape) -> List[str]:
    """Those of the words above that a pattern takes."""
    pattern = compiled(shape.metadata.get("pattern", ".*"))
    return [word for word in WORDS if pattern.fullmatch(word)]


def _texts(shape: Shape) -> List[str]:
    text = text_of(shape, shape.metadata.get("min", 1))
    return words_of(shape) if text is None else [text]


def text_of(shape: Shape, length: int) -> Optional[str]:
    """A text of this length that the pattern takes; None when there is none of the usual kind."""
    pattern = compiled(shape.metadata.get("pattern", ".*"))
    fillers = [filler * length for filler in string.ascii_lowercase[0] + "1"]
    fillers += ["{" + "x" * (length - 2) + "}"] if length >= 2 else []
    return next((text for text in fillers if pattern.fullmatch(text)), None)


def any_value(shape: Shape) -> st.SearchStrategy[Any]:
    """Values that satisfy the shape, at random."""
    rules = shape.metadata
    if shape.type_name == "structure":
        return _structure(shape)
    if shape.type_name == "list":
        return st.lists(any_value(shape.member), min_size=rules.get("min", 0), max_size=3)
    if shape.type_name == "string":
        return st.sampled_from(rules["enum"]) if "enum" in rules else _any_text(shape)
    return {
        "integer": st.integers(rules.get("min", -(2**31) + 1), rules.get("max", 2**31 - 1)),
        "boolean": st.booleans(),
        "float": st.floats(allow_nan=False, allow_infinity=False),
        "timestamp": st.datetimes(
            datetime(1970, 1, 2), datetime(2200, 1, 1), timezones=st.just(timezone.utc)
        ).map(lambda time: time.replace(microsecond=time.microsecond // 1000 * 1000)),
        "blob": st.binary(min_size=rules.get("min", 0), max_size=64),
    }[shape.type_name]


def _structure(shape: StructureShape) -> st.SearchStrategy[Dict[str, Any]]:
    members = {name: any_value(member) for name, member in shape.members.items()}
    required = {name: members.pop(name) for name in shape.required_members}
    return st.fixed_dictionaries(required, optional=members)


def _any_text(shape: Shape) -> st.SearchStrategy[str]:
    rules = shape.metadata
    least, most = rules.get("min", 0), rules.get("max", 2048)
    if "pattern" not in rules:
        return st.text(
            st.characters(exclude_categories=["Cs"]), min_size=least, max_size=min(most, 60)
        )
    if "\\p{L}" in rules["pattern"]:
        letters = st.characters(categories=["L", "N", "Z"], include_characters="_.:/=+-@")
        return st.text(letters, min_size=least, max_size=min(most, 60))
    pattern = compiled(rules["pattern"])
    texts = st.from_regex(pattern, fullmatch=True)
    return texts.filter(lambda text: least <= len(text) <= most and bool(pattern.fullmatch(text)))


def complete(shape: Shape) -> Any:
    """A value with all members that a shape may have."""
    if shape.type_name == "structure":
        return {name: complete(member) for name, member in shape.members.items()}
    if shape.type_name == "list":
        items: List[Any] = [complete(shape.member)]
        return items * 2
    return smallest(shape)
