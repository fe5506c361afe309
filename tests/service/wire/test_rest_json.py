"""Requests as they come: paths, queries, headers and bodies, of botocore and of others."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any, Dict, Mapping, Optional

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.service.wire.faults import MalformedRequest, UnknownOperation
from edge_agent.service.wire.rest_json import RestJson
from tests.service.wire.shape_values import MODEL, any_value, sent

PROTOCOL = RestJson(MODEL)
API = "/2020-11-20"
ENTRIES = f"{API}/projects/a/datasets/train/entries"
NO_HEADERS: Mapping[str, str] = {}


def read(method: str, path: str, query: str = "", body: bytes = b"") -> Dict[str, Any]:
    return PROTOCOL.parameters(PROTOCOL.route(method, path), query, NO_HEADERS, body)


@pytest.mark.parametrize("name", MODEL.operation_names)
@settings(max_examples=25)
@given(data=st.data())
def test_a_call_of_botocore_is_read_as_it_was_made(name: str, data: st.DataObject) -> None:
    operation = MODEL.operation_model(name)
    parameters = data.draw(any_value(operation.input_shape))
    if parameters.get("TagKeys") == []:
        parameters["TagKeys"] = ["a"]  # no query can say that a list is there and empty
    request = sent(operation, parameters)
    route = PROTOCOL.route(request.method, request.raw_path)
    assert route.operation.name == name
    assert (
        PROTOCOL.parameters(route, request.raw_query, request.headers, request.body) == parameters
    )


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("GET", ""),
        ("GET", API),
        ("GET", f"{API}/projects/"),
        ("GET", f"{API}/projects/a/"),
        ("GET", f"/{API}/projects"),
        ("GET", "/2020-11-21/projects"),
        ("GET", f"{API}/projects/a/b"),
        ("GET", f"{API}/tags/arn:aws:lookoutvision:eu-west-1:1:model/a/1"),
        ("PUT", f"{API}/projects"),
        ("get", f"{API}/projects"),
        ("HEAD", f"{API}/projects"),
        ("POST", f"{API}/projects/a"),
        ("GET", f"http://host{API}/projects"),
    ],
)
def test_no_operation_has_this_route(method: str, path: str) -> None:
    with pytest.raises(UnknownOperation):
        PROTOCOL.route(method, path)


@pytest.mark.parametrize(
    ("label", "arn"),
    [
        (
            "arn%3Aaws%3Alookoutvision%3Aa%3A1%3Amodel%2Fb%2F1",
            "arn:aws:lookoutvision:a:1:model/b/1",
        ),
        ("arn:aws:lookoutvision:a:1:model%2fb%2F1", "arn:aws:lookoutvision:a:1:model/b/1"),
        ("a+b%20c%2B", "a+b c+"),
        ("%C3%A9", "\u00e9"),
        ("100%", "100%"),
    ],
)
def test_labels_are_percent_encoded(label: str, arn: str) -> None:
    assert read("GET", f"{API}/tags/{label}") == {"ResourceArn": arn}


@pytest.mark.parametrize("label", ["%FF", "%C3", "%ED%A0%80"])
def test_a_label_that_is_no_utf_8_is_refused(label: str) -> None:
    with pytest.raises(MalformedRequest, match="UTF-8"):
        read("GET", f"{API}/tags/{label}")


NEW_YEAR = datetime(2026, 1, 1, tzinfo=timezone.utc)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", {}),
        ("labeled=true", {"Labeled": True}),
        ("labeled=false&other=1", {"Labeled": False}),
        ("maxResults=%31%30", {"MaxResults": 10}),
        ("maxResults=10&maxResults=20", {"MaxResults": 10}),
        ("nextToken=", {"NextToken": ""}),
        ("nextToken=a%2Bb%2F%3D%3D", {"NextToken": "a+b/=="}),
        ("sourceRefContains=a%20b+c", {"SourceRefContains": "a b c"}),
        ("createdAfter=2026-01-01T00:00:00Z", {"AfterCreationDate": NEW_YEAR}),
        ("createdAfter=2026-01-01T00%3A00%3A00.000000Z", {"AfterCreationDate": NEW_YEAR}),
        ("createdAfter=2026-01-01T02:00:00.000%2B02:00", {"AfterCreationDate": NEW_YEAR}),
        ("createdAfter=2026-01-01T00:00:00.123456789Z",
         {"AfterCreationDate": NEW_YEAR.replace(microsecond=123456)}),
        ("createdAfter=1767225600", {"AfterCreationDate": NEW_YEAR}),
        ("createdAfter=1767225600.5", {"AfterCreationDate": NEW_YEAR.replace(microsecond=500000)}),
    ],
)  # fmt: skip
def test_what_stands_in_a_query(query: str, expected: Dict[str, Any]) -> None:
    assert read("GET", ENTRIES, query) == {"ProjectName": "a", "DatasetType": "train", **expected}


@pytest.mark.parametrize(
    "query",
    [
        "labeled=True", "labeled=1", "labeled=", "maxResults=", "maxResults=1.0", "maxResults=1e1",
        "maxResults=2147483648", "maxResults=99999999999999999999", "maxResults=%D9%A3",
        "maxResults=true", "createdBefore=", "createdBefore=today", "createdBefore=2026-01-01",
        "createdBefore=2026-02-30T00:00:00Z", "createdBefore=2026-01-01T00:00:00",
        "createdBefore=0001-01-01T00:00:00%2B12:00", "createdBefore=2026-01-01T00:00:00%2B99:00",
        "createdBefore=999999999999", "createdBefore=-999999999999", "createdBefore=nan",
        "sourceRefContains=%FF",
    ],
)  # fmt: skip
def test_a_query_in_a_wrong_form_is_refused(query: str) -> None:
    with pytest.raises(MalformedRequest):
        read("GET", ENTRIES, query)


@pytest.mark.parametrize("keys", [["a"], ["a", "b c", "\u00e9+"]])
def test_a_list_in_a_query(keys: Any) -> None:
    request = sent(MODEL.operation_model("UntagResource"), {"ResourceArn": "a", "TagKeys": keys})
    route = PROTOCOL.route("DELETE", request.raw_path)
    assert PROTOCOL.parameters(route, request.raw_query, {}, b"")["TagKeys"] == keys


@pytest.mark.parametrize(
    "body",
    [
        b"{", b"[]", b"1", b"null", b'"a"', b"{}{}", b"\xff", b"\xef\xbb\xbf{}", b"{'a': 1}",
        "{}".encode("utf-16"), b"[" * 100_000, b'{"a": NaN}', b'{"a": 1' + b"0" * 5000 + b"}",
    ],
)  # fmt: skip
def test_a_body_that_is_no_json_object_is_refused(body: bytes) -> None:
    with pytest.raises(MalformedRequest, match="body"):
        read("POST", f"{API}/projects", body=body)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"ProjectName": "a", "Other": {"b": [1]}}', {"ProjectName": "a"}),
        (b' {"ProjectName" : "\\u0061"} \n', {"ProjectName": "a"}),
    ],
)
def test_members_that_nobody_knows_are_left_out(body: bytes, expected: Dict[str, Any]) -> None:
    assert read("POST", f"{API}/projects", body=body) == expected


def test_a_member_that_is_null_is_not_given() -> None:
    body = b'{"OutputConfig": {"S3Location": {"Bucket": "abc", "Prefix": null}}, "Tags": null}'
    location = {"S3Location": {"Bucket": "abc"}}
    found = read("POST", f"{API}/projects/a/models", body=body)
    assert found == {"ProjectName": "a", "OutputConfig": location}


def test_an_operation_without_members_in_the_body_reads_none() -> None:
    assert read("DELETE", f"{API}/projects/a", body=b"[") == {"ProjectName": "a"}


def test_an_image_is_all_of_the_body() -> None:
    route = PROTOCOL.route("POST", f"{API}/projects/a/models/1/detect")
    found = PROTOCOL.parameters(route, "", {"content-type": "image/png"}, b"\x89PNG")
    assert found["Body"] == b"\x89PNG"
    assert found["ContentType"] == "image/png"


@pytest.mark.parametrize(
    ("method", "path", "least"),
    [
        ("POST", f"{API}/projects/a/models/1/detect", 8 * 2**20),
        ("PATCH", ENTRIES, 10485760 * 4 // 3),
        ("POST", f"{API}/projects", 0),
        ("POST", "/other", 0),
    ],
)
def test_how_large_a_body_may_be(method: str, path: str, least: Optional[int]) -> None:
    assert PROTOCOL.most_bytes(method, path) == least + 2**20
