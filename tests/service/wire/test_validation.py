"""Every limit, pattern and enum of every parameter, at both edges; generated from the model."""

from __future__ import annotations

import json
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Tuple

import pytest
from botocore.model import OperationModel, Shape

from edge_agent.service.faults import ValidationFailed
from edge_agent.service.wire.faults import MalformedRequest, UnknownOperation
from edge_agent.service.wire.patterns import compiled
from edge_agent.service.wire.rest_json import RestJson
from tests.service.wire.shape_values import (
    MODEL,
    OPERATIONS,
    Path,
    places,
    sent,
    smallest,
    text_of,
    with_value,
    words_of,
)

PROTOCOL = RestJson(MODEL)
NOTHING_ELSE_FITS = ("\u2603\u2603\u2603", "a\nb\n")  # one of them fits no pattern of the model


class Edge(NamedTuple):
    """A value of one parameter and what is said of it; None: it is right."""

    operation: OperationModel
    path: Path
    shape: Shape
    value: Any
    refusal: Optional[str]


def edges_of(shape: Shape) -> Iterator[Tuple[Any, Optional[str]]]:
    """Values at the edges of one shape, each with what is said of it."""
    rules = shape.metadata
    kind = "value" if shape.type_name == "integer" else "length"
    for name, step, words in (("min", -1, "greater"), ("max", 1, "less")):
        if name in rules:
            limit = rules[name]
            yield from ((value, None) for value in of_size(shape, limit))
            if limit + step >= 0:
                value = (of_size(shape, limit + step) or ["x" * (limit + step)])[0]
                yield value, f"Member must have {kind} {words} than or equal to {limit}"
    if "pattern" in rules:
        yield from ((word, None) for word in words_of(shape))
        pattern = compiled(rules["pattern"])
        value = next(text for text in NOTHING_ELSE_FITS if not pattern.fullmatch(text))
        yield value, f"Member must satisfy regular expression pattern: {rules['pattern']}"
    if "enum" in rules:
        yield from ((value, None) for value in rules["enum"])
        yield "OTHER", f"Member must satisfy enum value set: [{', '.join(rules['enum'])}]"


def of_size(shape: Shape, size: int) -> List[Any]:
    """A value of this size that is right but for it; none when the pattern takes few words only."""
    if shape.type_name == "integer":
        return [size]
    if shape.type_name == "blob":
        return [b"x" * size]
    if shape.type_name == "list":
        return [[smallest(shape.member)] * size]
    text = text_of(shape, size)
    return [] if text is None else [text]


def edges() -> Iterator[Edge]:
    for operation in OPERATIONS:
        for path, shape in places(operation.input_shape):
            for value, refusal in edges_of(shape):
                if value != [] or "location" not in shape.serialization:  # no list: not given
                    yield Edge(operation, path, shape, value, refusal)


EDGES = list(edges())


def name_of(edge: Edge) -> str:
    is_sized = isinstance(edge.value, (str, bytes, list))
    size = len(edge.value) if is_sized else edge.value
    said = edge.refusal.split()[3] if edge.refusal else "right"
    return f"{edge.operation.name}-{aws_path(edge.path)}-{size}-{said}"


def aws_path(path: Path) -> str:
    """Where AWS says that a parameter is, such as tags.1.member.key."""
    return ".".join(
        f"{part + 1}.member" if isinstance(part, int) else part[0].lower() + part[1:]
        for part in path
    )


def read(operation: OperationModel, parameters: Dict[str, Any]) -> Dict[str, Any]:
    request = sent(operation, parameters)
    route = PROTOCOL.route(request.method, request.raw_path)
    assert route.operation.name == operation.name
    return PROTOCOL.parameters(route, request.raw_query, request.headers, request.body)


def refusal_of(operation: OperationModel, parameters: Dict[str, Any]) -> str:
    with pytest.raises(ValidationFailed) as caught:
        read(operation, parameters)
    return str(caught.value)


@pytest.mark.parametrize("edge", EDGES, ids=name_of)
def test_a_value_at_an_edge(edge: Edge) -> None:
    parameters = with_value(edge.operation.input_shape, edge.path, edge.value)
    if edge.refusal is None:
        assert read(edge.operation, parameters) == parameters
    elif edge.value == "" and edge.shape.serialization.get("location") == "uri":
        with pytest.raises(UnknownOperation):
            read(edge.operation, parameters)
    else:
        said = refusal_of(edge.operation, parameters)
        at = f"at '{aws_path(edge.path)}' failed to satisfy constraint: "
        assert f"{at}{edge.refusal}" in said


REQUIRED = [
    (operation, (*path, name))
    for operation in OPERATIONS
    for path, shape in [((), operation.input_shape), *places(operation.input_shape)]
    if shape.type_name == "structure"
    for name in shape.required_members
    if shape.members[name].serialization.get("location") != "uri" and name != "Body"
]


@pytest.mark.parametrize(
    ("operation", "path"), REQUIRED, ids=lambda part: str(getattr(part, "name", part))
)
def test_what_is_required(operation: OperationModel, path: Path) -> None:
    said = refusal_of(operation, with_value(operation.input_shape, path, None))
    assert said == (
        f"1 validation error detected: Value null at '{aws_path(path)}' failed to satisfy "
        "constraint: Member must not be null"
    )


WRONG_TYPES = {
    "structure": ["x", 1, True, []],
    "list": ["x", 1, True, {}],
    "string": [1, True, [], {}, "\ud800"],
    "integer": ["1", 1.5, True, [], {}, 2**31, 10**30],
    "blob": [1, True, [], {}, "no base64!", "YQ", "é"],
}
IN_BODY = [
    (operation, path, wrong)
    for operation in OPERATIONS
    for path, shape in places(operation.input_shape)
    if "location" not in operation.input_shape.members[path[0]].serialization and path != ("Body",)
    for wrong in [*WRONG_TYPES[shape.type_name], *([None] if path[-1] == 0 else [])]
]


@pytest.mark.parametrize(
    ("operation", "path", "wrong"), IN_BODY, ids=lambda part: repr(getattr(part, "name", part))
)
def test_a_wrong_type_in_the_body(operation: OperationModel, path: Path, wrong: object) -> None:
    request = sent(operation, smallest(operation.input_shape))
    route = PROTOCOL.route(request.method, request.raw_path)
    body = json.dumps(wrong_body(operation.input_shape, path, wrong)).encode()
    with pytest.raises(MalformedRequest, match=r"must be|character"):
        PROTOCOL.parameters(route, request.raw_query, request.headers, body)


def wrong_body(shape: Shape, path: Path, wrong: object) -> object:
    if not path:
        return wrong
    inner = shape.member if path[0] == 0 else shape.members[path[0]]
    value = wrong_body(inner, path[1:], wrong)
    return [value] if path[0] == 0 else {path[0]: value}


def test_a_wrong_value_is_shown_up_to_a_length() -> None:
    project = MODEL.operation_model("CreateProject")
    said = refusal_of(project, {"ProjectName": "!" * 300})
    assert said.startswith(f"2 validation errors detected: Value '{'!' * 256}...' at 'projectName'")


def test_every_violation_is_reported() -> None:
    tag = MODEL.operation_model("TagResource")
    tags = [{"Key": "a", "Value": "b"}, {"Key": "", "Value": "\u2603"}]
    said = refusal_of(tag, {"ResourceArn": "a", "Tags": tags})
    assert said == (
        "2 validation errors detected: Value '' at 'tags.2.member.key' failed to satisfy "
        "constraint: Member must have length greater than or equal to 1; Value '\u2603' at "
        "'tags.2.member.value' failed to satisfy constraint: Member must satisfy regular "
        "expression pattern: ^([\\p{L}\\p{Z}\\p{N}_.:/=+\\-@]*)$"
    )
