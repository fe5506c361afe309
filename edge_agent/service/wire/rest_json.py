"""The protocol rest-json: paths, queries, headers and JSON bodies as a service model binds them."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any, Dict, List, Mapping, Optional, Tuple
from urllib.parse import parse_qs, unquote_to_bytes

from botocore.model import OperationModel, ServiceModel, Shape, StructureShape

from edge_agent.service.call import Answer
from edge_agent.service.faults import ServiceFault
from edge_agent.service.wire.faults import MalformedRequest, UnknownOperation
from edge_agent.service.wire.json_values import check_members, from_json, json_object, to_json
from edge_agent.service.wire.text_values import from_text
from edge_agent.service.wire.validation import validate

ROOM_BYTES = 2**20  # for the JSON of a body besides its blobs
STREAM_BYTES = 8 * 2**20  # of a body that is an image


@dataclass(frozen=True)
class Route:
    """The operation that a method and a path mean, and the labels in the path, still encoded."""

    operation: OperationModel
    labels: Mapping[str, str]


@dataclass(frozen=True)
class HttpAnswer:
    """An answer, ready to be sent."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


class RestJson:
    """Reads the requests of a service and writes its answers."""

    def __init__(self, model: ServiceModel) -> None:
        self.service: str = model.signing_name
        self._model = model
        self._routes = [_route(model.operation_model(name)) for name in model.operation_names]

    def find(self, method: str, raw_path: str) -> Optional[Route]:
        """Return what is called; None: nothing. `raw_path`: percent-encoded."""
        for operation_method, path, operation in self._routes:
            match = path.fullmatch(raw_path)
            if match and method == operation_method:
                return Route(operation, match.groupdict())
        return None

    def route(self, method: str, raw_path: str) -> Route:
        """Return what is called. Raises UnknownOperation."""
        route = self.find(method, raw_path)
        if route is None:
            raise UnknownOperation("There is no operation with this method and path.")
        return route

    def most_bytes(self, method: str, raw_path: str) -> int:
        """Return how large a body may be; one that no operation takes, too."""
        route = self.find(method, raw_path)
        if route is None:
            return ROOM_BYTES
        members = route.operation.input_shape.members.values()
        return ROOM_BYTES + sum(_blob_bytes(member) for member in members)

    def parameters(
        self, route: Route, raw_query: str, headers: Mapping[str, str], body: bytes
    ) -> Dict[str, Any]:
        """Return the parameters of a call by the members of its input shape.

        `headers`: by their names in lower case. Raises MalformedRequest and ValidationFailed.
        """
        shape = route.operation.input_shape
        texts = {
            "uri": {key: [_decoded(label, key)] for key, label in route.labels.items()},
            "querystring": _query(raw_query),
            "header": {key: [value] for key, value in headers.items()},
        }
        given = {**_of_texts(shape, texts), **_of_body(shape, body)}
        validate(shape, given)
        return given

    def answer(self, operation: OperationModel, answer: Answer) -> HttpAnswer:
        """Return what an operation answers; raise AnswerMismatch when its shape has it not."""
        headers, body = _written(operation.output_shape, answer)
        return HttpAnswer(operation.http.get("responseCode", 200), body, headers)

    def fault(self, fault: ServiceFault) -> HttpAnswer:
        """Return an error answer; raise AnswerMismatch when its shape has it not."""
        shape = self._model.shape_for_error_code(fault.code)
        error = {"x-amzn-ErrorType": fault.code}
        if shape is None:
            return HttpAnswer(fault.status, json.dumps({"message": str(fault)}).encode(), error)
        headers, body = _written(shape, fault.members)
        return HttpAnswer(shape.metadata["error"]["httpStatusCode"], body, {**headers, **error})


def _route(operation: OperationModel) -> Tuple[str, re.Pattern[str], OperationModel]:
    parts = re.split(r"\{(\w+)\}", operation.http["requestUri"])
    parts[::2] = [re.escape(part) for part in parts[::2]]
    parts[1::2] = [f"(?P<{label}>[^/]+)" for label in parts[1::2]]
    return operation.http["method"], re.compile("".join(parts)), operation


def _blob_bytes(member: Shape) -> int:
    """Return how much of a body a member may take, when that may be much."""
    if member.type_name != "blob":
        return 0
    in_base64: int = member.metadata.get("max", 0) * 4 // 3
    return STREAM_BYTES if member.serialization.get("streaming") else in_base64


def _decoded(label: str, path: str) -> str:
    try:
        return unquote_to_bytes(label).decode()
    except UnicodeDecodeError:
        raise MalformedRequest(f"{path} must be percent-encoded UTF-8.") from None


def _query(raw_query: str) -> Dict[str, List[str]]:
    try:
        return parse_qs(raw_query, keep_blank_values=True, errors="strict")
    except ValueError:
        raise MalformedRequest("The query must be percent-encoded UTF-8.") from None


def _of_texts(
    shape: StructureShape, texts: Mapping[str, Mapping[str, List[str]]]
) -> Dict[str, Any]:
    """Read the members that stand in the path, the query and the headers."""
    found = {}
    for name, member in shape.members.items():
        location = member.serialization.get("location")
        if location is not None:
            key = member.serialization["name"]
            values = texts[location].get(key.lower() if location == "header" else key)
            if values and member.type_name == "list":
                found[name] = [from_text(member.member, value, name) for value in values]
            elif values:
                found[name] = from_text(member, values[0], name)
    return found


def _of_body(shape: StructureShape, body: bytes) -> Dict[str, Any]:
    """Read the members that stand in the body: one that is all of it, or those of a JSON object."""
    payload = shape.serialization.get("payload")
    if payload is not None:
        return {payload: body}
    inside = [name for name, member in shape.members.items() if not _is_located(member)]
    values = json_object(body) if inside else {}
    return {
        name: from_json(shape.members[name], values[name], name)
        for name in inside
        if values.get(name) is not None
    }


def _written(shape: StructureShape, values: Mapping[str, Any]) -> Tuple[Dict[str, str], bytes]:
    """Return the headers and the body that an answer's members make."""
    check_members(shape, values, "the answer")
    headers: Dict[str, str] = {}
    content: Dict[str, object] = {}
    for name, value in values.items():
        member = shape.members[name]
        if value is not None:
            written = to_json(member, value, name)
            if _is_located(member):
                headers[member.serialization["name"]] = str(written)
            else:
                content[name] = written
    return headers, json.dumps(content, allow_nan=False).encode()


def _is_located(member: Shape) -> bool:
    return "location" in member.serialization
