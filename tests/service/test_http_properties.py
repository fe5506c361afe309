"""Requests at random: right ones reach their operation, others are refused; none is a mistake."""

from __future__ import annotations

import json
import string
from pathlib import Path
from typing import Any, Dict, Iterator
from urllib.parse import quote

import pytest
from botocore.model import OperationModel
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.service.wire.rest_json import RestJson
from tests.service.served import UNSIGNED_ACCOUNT, Received, Served, served
from tests.service.wire.shape_values import MODEL, OPERATIONS, any_value, places, sent, with_value

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
NAMES = sorted({name for operation in OPERATIONS for name in operation.input_shape.members})
KEYS = sorted(
    {
        member.serialization["name"]
        for operation in OPERATIONS
        for member in operation.input_shape.members.values()
        if "name" in member.serialization
    }
)
VALUES = st.text(string.printable.strip() + "\u00e9\u6f22", max_size=20) | st.sampled_from(
    ["1", "true", "latest", "train", "2026-01-01T00:00:00Z", "a" * 300]
)
SEGMENTS = VALUES | st.sampled_from(["projects", "models", "datasets", "tags", "start", "entries"])
METHODS = st.sampled_from(["GET", "POST", "DELETE", "PATCH", "PUT", "HEAD", "OPTIONS", "FUZZ"])


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder: Path = tmp_path_factory.mktemp("service")
    with served(folder, {}, unsigned=True) as running:
        yield running


def check(answer: Received) -> None:
    """Every answer is one that a client of AWS can read, and none is a mistake of ours."""
    assert answer.status < 500, answer
    assert len(answer.headers["x-amzn-requestid"]) == 36
    assert answer.headers["content-type"] == "application/json"
    if answer.status >= 400:
        assert answer.error
        assert answer.headers["content-length"] != "0"


def any_parameters(operation: OperationModel, data: st.DataObject) -> Dict[str, Any]:
    parameters: Dict[str, Any] = data.draw(any_value(operation.input_shape))
    if "ContentType" in parameters:  # the pattern takes what no header may have
        parameters["ContentType"] = data.draw(st.from_regex(r"[!-~]([ -~]*[!-~])?", fullmatch=True))
    return parameters


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
@settings(max_examples=20)
@given(data=st.data())
def test_a_right_call_reaches_its_operation(
    service: Served, operation: OperationModel, data: st.DataObject
) -> None:
    parameters = any_parameters(operation, data)
    if parameters.get("TagKeys") == []:
        parameters["TagKeys"] = ["a"]  # no query can say that a list is there and empty
    parameters.pop("ClientToken", None)  # of a later call, it would have other parameters
    request = sent(operation, parameters)
    service.calls.clear()
    query = f"?{request.raw_query}" if request.raw_query else ""
    headers = {name: value.encode() for name, value in request.headers.items()}
    answer = service.call(request.method, request.raw_path + query, request.body, headers)
    check(answer)
    assert answer.status == operation.http.get("responseCode", 200)
    (call,) = service.calls
    assert call.operation == operation.name
    assert call.account == UNSIGNED_ACCOUNT
    assert dict(call.parameters) == parameters


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
@settings(max_examples=20)
@given(data=st.data())
def test_a_call_with_any_value_in_one_place_is_answered(
    service: Served, operation: OperationModel, data: st.DataObject
) -> None:
    inside = [
        path
        for path, _ in places(operation.input_shape)
        if "location" not in operation.input_shape.members[path[0]].serialization
    ]
    request = sent(operation, any_parameters(operation, data))
    if inside:
        body = with_value(
            operation.input_shape, data.draw(st.sampled_from(inside)), data.draw(JSON)
        )
        content = json.dumps(body, default=str).encode()
    else:
        content = data.draw(st.binary(max_size=200))
    headers = {name: value.encode() for name, value in request.headers.items()}
    headers["content-length"] = str(len(content)).encode()
    pairs = data.draw(st.lists(st.tuples(st.sampled_from(KEYS), VALUES), max_size=4))
    query = "&".join(f"{key}={quote(value)}" for key, value in pairs)
    check(service.call(request.method, f"{request.raw_path}?{query}", content, headers))


@settings(max_examples=400)
@given(
    method=METHODS,
    segments=st.lists(SEGMENTS, max_size=7),
    query=st.lists(
        st.tuples(st.sampled_from([*KEYS, "other"]), VALUES | st.just("%FF%00")), max_size=4
    ),
    headers=st.dictionaries(
        st.sampled_from(["X-Amzn-Client-Token", "Content-Type", "Accept", "X-Amz-Target"]), VALUES
    ),
    body=st.binary(max_size=200) | JSON.map(json.dumps).map(str.encode),
)
def test_any_request_is_answered(
    service: Served, method: str, segments: Any, query: Any, headers: Any, body: bytes
) -> None:
    path = "/".join(["/2020-11-20", *(quote(segment, safe="") for segment in segments)])
    pairs = "&".join(f"{key}={quote(value, safe='%')}" for key, value in query)
    encoded = {name: value.encode() for name, value in headers.items()}
    answer = service.call(method, f"{path}?{pairs}", body, encoded)
    check(answer)


def test_the_routes_of_all_operations_differ() -> None:
    protocol = RestJson(MODEL)
    for operation in OPERATIONS:
        route = protocol.route(operation.http["method"], operation.http["requestUri"])
        assert route.operation.name == operation.name
