"""Requests that botocore signed are taken; nothing that was changed or made up is."""

from __future__ import annotations

from dataclasses import replace
from typing import Dict, Optional
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.service.auth.access_keys import AccessKey
from edge_agent.service.auth.http_request import HttpRequest
from edge_agent.service.auth.refusals import (
    IncompleteSignature,
    NoSignature,
    NotAuthenticated,
    UnknownCredentials,
    WrongSignature,
)
from tests.service.auth.signing import (
    KEY,
    SERVICE,
    authenticator,
    in_chunks,
    presigned,
    signed,
    with_header,
)

FAR_AWAY = "192.0.2.1"
NAMES = st.text(min_size=1, max_size=12).filter(lambda text: text not in (".", ".."))
PATHS = st.lists(NAMES, max_size=4).map(
    lambda names: "/" + "/".join(quote(name, safe="") for name in names)
)
QUERIES = st.lists(st.tuples(NAMES, st.text(max_size=12)), max_size=4).map(
    lambda pairs: "&".join(f"{quote(a, safe='')}={quote(b, safe='')}" for a, b in pairs)
)
TOKEN = "x-amzn-client-token"


@st.composite
def requests(draw: st.DrawFn) -> HttpRequest:
    query = draw(QUERIES)
    return signed(
        draw(PATHS) + (f"?{query}" if query else ""),
        draw(st.sampled_from(["GET", "POST", "PATCH", "DELETE"])),
        draw(st.binary(max_size=64)),
        {TOKEN: draw(st.from_regex("[a-zA-Z0-9-]{1,64}", fullmatch=True))},
    )


def verify(request: HttpRequest, later_s: float = 0.0, service: str = SERVICE) -> bytes:
    principal, body = authenticator(later_s).verify(request, service)
    assert (principal.account, principal.access_key) == (KEY.account, KEY.id)
    return body


@given(requests())
@settings(max_examples=100, deadline=None)
def test_what_botocore_signs_is_taken(request: HttpRequest) -> None:
    assert verify(request) == request.body


def changed(text: str, at: int, letter: str) -> Optional[str]:
    """`text` with another letter in one place; None when that is the letter it has."""
    place = at % len(text)
    return None if text[place] == letter else text[:place] + letter + text[place + 1 :]


@given(requests(), st.data())
@settings(max_examples=300, deadline=None)
def test_any_altered_byte_is_refused(request: HttpRequest, data: st.DataObject) -> None:
    texts: Dict[str, str] = {
        "method": request.method,
        "raw_path": request.raw_path,
        "raw_query": request.raw_query,
        "body": request.body.decode("latin-1"),
        TOKEN: request.header(TOKEN) or "",
        "host": request.header("host") or "",
        "x-amz-date": request.header("x-amz-date") or "",
    }
    part = data.draw(st.sampled_from([name for name, text in texts.items() if text]))
    letter = data.draw(st.sampled_from("aZ09%/.-_~:+"))
    text = changed(texts[part], data.draw(st.integers(0, 500)), letter)
    if text is None:
        return
    altered = with_header(request, part, text)
    if part == "body":
        altered = replace(request, body=text.encode("latin-1"))
    elif "-" not in part and part != "host":
        altered = replace(request, **{part: text})
    with pytest.raises(NotAuthenticated):
        verify(altered)


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_any_authorization_header_is_refused_with_a_sentence(data: st.DataObject) -> None:
    request = signed()
    authorization = request.header("authorization") or ""
    letter = data.draw(st.characters(max_codepoint=255))
    text = changed(authorization, data.draw(st.integers(0, 500)), letter)
    made_up = data.draw(st.text(st.characters(max_codepoint=255)))
    for value in (text, made_up):
        if value is not None and value.split() != authorization.split():
            with pytest.raises(NotAuthenticated):
                verify(with_header(request, "authorization", value))


def test_a_wrong_secret_and_an_unknown_key_are_refused_as_aws_does() -> None:
    with pytest.raises(WrongSignature, match="we calculated does not match the signature you"):
        verify(signed(key=AccessKey(KEY.id, KEY.account, "another secret", 0.0)))
    with pytest.raises(UnknownCredentials, match="security token included in the request is inv"):
        verify(signed(key=AccessKey("AKIDOTHER", KEY.account, KEY.secret, 0.0)))


def test_the_secret_is_not_in_the_repr_of_a_key() -> None:
    assert KEY.secret not in repr(KEY)


def test_a_signature_is_taken_for_a_quarter_of_an_hour_before_and_after() -> None:
    request = signed()
    for seconds in (-895, 895):
        verify(request, seconds)
    with pytest.raises(WrongSignature, match=r"Signature expired: \d{8}T\d{6}Z is now earlier"):
        verify(request, 905)
    with pytest.raises(WrongSignature, match=r"Signature not yet current: \d{8}T\d{6}Z is still"):
        verify(request, -905)


def test_a_signature_for_another_service_is_refused() -> None:
    with pytest.raises(WrongSignature, match="correct service: 'lookoutvision'"):
        verify(signed(service="rekognition"))


@pytest.mark.parametrize("name", ["host", TOKEN])
def test_what_changes_a_call_must_be_signed(name: str) -> None:
    request = signed(headers={TOKEN: "one"})
    authorization = request.header("authorization") or ""
    assert name in authorization
    unsigned = authorization.replace(f"{name};", "").replace(f";{name}", "")
    with pytest.raises(IncompleteSignature, match=f"'{name}' must be a 'SignedHeader'"):
        verify(with_header(request, "authorization", unsigned))


@pytest.mark.parametrize("name", ["x-amzn-trace-id", "x-amz-content-sha256", "x-amz-meta"])
def test_headers_that_change_nothing_need_no_signature_as_with_aws(name: str) -> None:
    request = with_header(signed(body=b"{}"), name, "UNSIGNED-PAYLOAD")
    assert verify(request) == b"{}"
    with pytest.raises(WrongSignature):
        verify(replace(request, body=b"[]"))


def test_a_signed_header_that_comes_twice_is_refused() -> None:
    request = signed(headers={TOKEN: "one"})
    with pytest.raises(WrongSignature):
        verify(replace(request, headers=[*request.headers, (TOKEN, "two")]))
    with pytest.raises(IncompleteSignature, match="x-amz-date came 2 times"):
        verify(replace(request, headers=[*request.headers, ("x-amz-date", "20201120T080000Z")]))


def test_the_date_header_is_taken_in_place_of_x_amz_date() -> None:
    request = signed(headers={"Date": "to be set by botocore"})
    assert request.header("x-amz-date") is None
    verify(request)


def test_session_tokens_are_refused_in_clear_words() -> None:
    with pytest.raises(UnknownCredentials, match="no session tokens: use an access key of"):
        verify(signed(token="a session"))


@pytest.mark.parametrize("path", ["/a/../b", "/a/..", "/a//b", "/./a", "//"])
def test_paths_that_signers_shorten_are_refused(path: str) -> None:
    with pytest.raises(WrongSignature, match="empty part or a part of dots"):
        verify(signed(path))


@pytest.mark.parametrize(
    ("authorization", "sentence"),
    [
        ("Basic dXNlcjpwYXNz", "must begin with AWS4-HMAC-SHA256"),
        ("AWS4-HMAC-SHA256", "requires 'Credential' parameter.*requires 'SignedHeaders'"),
        (
            "AWS4-HMAC-SHA256 Credential=A/B, SignedHeaders=host, Signature=1",
            "exactly 5 slash-delimited",
        ),
        ("AWS4-HMAC-SHA256 Credential=A, Credential=B", "stands in it twice"),
    ],
)
def test_an_incomplete_header_is_refused_with_what_is_missing(
    authorization: str, sentence: str
) -> None:
    with pytest.raises(IncompleteSignature, match=sentence) as caught:
        verify(with_header(signed(), "authorization", authorization))
    assert caught.value.status == 400


@pytest.mark.parametrize(
    "date",
    ["20201320T000000Z", "now", "2020-11-20T08:00:00Z", "\u0662\u0660\u0662\u06601120T080000Z"],
)
def test_a_date_that_is_none_is_refused(date: str) -> None:
    with pytest.raises(IncompleteSignature, match="ISO-8601 'basic format'"):
        verify(with_header(signed(), "x-amz-date", date))


def test_a_date_header_with_a_year_beyond_all_is_refused() -> None:
    request = signed(headers={"Date": "to be set by botocore"})
    late = with_header(request, "date", "Mon, 01 Jan 99999999999999999999 00:00:00 GMT")
    with pytest.raises(IncompleteSignature):
        verify(late)


@pytest.mark.parametrize("date", ["00010101T000000Z", "99991231T235959Z"])
def test_a_date_far_away_is_refused(date: str) -> None:
    request = with_header(signed(), "x-amz-date", date)
    with pytest.raises(WrongSignature, match=r"Signature expired|not yet current"):
        verify(request)


def test_unsigned_calls_are_refused_as_aws_does() -> None:
    with pytest.raises(NoSignature, match="Missing Authentication Token"):
        verify(with_header(signed(), "authorization", None))


def test_unsigned_calls_are_taken_by_a_switch_from_programs_on_this_machine_only() -> None:
    request = with_header(signed(), "authorization", None)
    taking = authenticator(unsigned_account="000000000000")
    principal, body = taking.verify(request, SERVICE)
    assert (principal.account, principal.access_key, principal.signature, body) == (
        "000000000000", "", "", b"{}",
    )  # fmt: skip
    for refused in (
        replace(request, peer=FAR_AWAY),
        with_header(request, "origin", "http://web.example"),
        with_header(request, "host", "rebound.example:8600"),
    ):
        with pytest.raises(NoSignature):
            taking.verify(refused, SERVICE)


def test_a_wrong_signature_is_refused_where_unsigned_calls_are_taken() -> None:
    request = signed(key=AccessKey("AKIDOTHER", KEY.account, KEY.secret, 0.0))
    with pytest.raises(UnknownCredentials):
        authenticator(unsigned_account="000000000000").verify(request, SERVICE)


def test_presigned_requests_are_taken_until_they_expire() -> None:
    request = presigned("/2020-11-20/projects?maxResults=5&nextToken=a%2Fb%20c", expires_s=60)
    verify(request, 55)
    with pytest.raises(WrongSignature, match="Signature expired"):
        verify(request, 65)
    with pytest.raises(WrongSignature, match="not yet current"):
        verify(request, -905)


@given(st.integers(0, 1000), st.sampled_from("aZ09%/.-_~&="))
@settings(max_examples=200, deadline=None)
def test_any_altered_byte_of_a_presigned_query_is_refused(at: int, letter: str) -> None:
    request = presigned("/2020-11-20/projects?maxResults=5&nextToken=a%2Fb%20c")
    query = changed(request.raw_query, at, letter)
    if query is not None:
        with pytest.raises(NotAuthenticated):
            verify(replace(request, raw_query=query))


@pytest.mark.parametrize("expires_s", [0, 604_801, -5])
def test_a_presigned_request_is_valid_for_a_week_at_most(expires_s: int) -> None:
    with pytest.raises(IncompleteSignature, match="1 to 604800"):
        verify(presigned("/2020-11-20/projects", expires_s))


def test_a_request_is_signed_once() -> None:
    request = signed("/2020-11-20/projects?X-Amz-Signature=0")
    with pytest.raises(IncompleteSignature, match="signed twice"):
        verify(request)


def test_a_request_is_taken_from_anywhere_when_its_body_is_signed() -> None:
    verify(replace(signed(), peer=FAR_AWAY))
    chunks = in_chunks("STREAMING-AWS4-HMAC-SHA256-PAYLOAD", [b"image"])
    assert verify(replace(chunks, peer=FAR_AWAY)) == b"image"
