"""Signers that aren't AWS's own: what they leave unsigned, and how they write a query.

The rules are those of aws-requests-auth and awscurl (only host and x-amz-date are signed, while
x-amz-content-sha256 is sent), and of requests with requests-aws4auth (a space of the query is sent
as a plus sign and signed as %20).
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import replace
from datetime import datetime, timezone
from typing import List, Tuple

import pytest

from edge_agent.service.auth.http_request import HttpRequest
from edge_agent.service.auth.refusals import NotAuthenticated
from tests.service.auth.signing import KEY, SERVICE, authenticator, with_header

HOST = "127.0.0.1:8600"
FAR_AWAY = "192.0.2.1"


def plainly_signed(
    path: str, sent_query: str, signed_query: str, body: bytes, unsigned: List[Tuple[str, str]]
) -> HttpRequest:
    """A POST of which only host and date are signed, written from AWS's public description."""
    date = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%SZ")
    scope = f"{date[:8]}/us-east-1/{SERVICE}/aws4_request"
    headers = f"host:{HOST}\nx-amz-date:{date}\n"
    digest = hashlib.sha256(body).hexdigest()
    canonical = f"POST\n{path}\n{signed_query}\n{headers}\nhost;x-amz-date\n{digest}"
    hashed = hashlib.sha256(canonical.encode()).hexdigest()
    key = f"AWS4{KEY.secret}".encode()
    for part in scope.split("/"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    text = f"AWS4-HMAC-SHA256\n{date}\n{scope}\n{hashed}"
    signature = hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
    authorization = (
        f"AWS4-HMAC-SHA256 Credential={KEY.id}/{scope}, SignedHeaders=host;x-amz-date, "
        f"Signature={signature}"
    )
    sent = [("host", HOST), ("x-amz-date", date), ("authorization", authorization), *unsigned]
    return HttpRequest("POST", path, sent_query, sent, body, FAR_AWAY, secure=False)


@pytest.mark.parametrize(
    "given", ["", "0" * 64, "UNSIGNED-PAYLOAD", "STREAMING-UNSIGNED-PAYLOAD-TRAILER"]
)
def test_an_unsigned_hash_is_taken_and_says_nothing(given: str) -> None:
    body = b'{"ProjectName": "cookies"}'
    value = given or hashlib.sha256(body).hexdigest()
    unsigned = [("x-amz-content-sha256", value), ("content-type", "application/json")]
    request = plainly_signed("/2020-11-20/projects", "", "", body, unsigned)
    principal, received = authenticator().verify(request, SERVICE)
    assert (principal.account, received) == (KEY.account, body)
    with pytest.raises(NotAuthenticated):
        authenticator().verify(replace(request, body=b'{"ProjectName": "other"}'), SERVICE)


def test_an_unsigned_client_token_is_refused() -> None:
    request = plainly_signed("/2020-11-20/projects", "", "", b"{}", [])
    with pytest.raises(NotAuthenticated, match="'x-amzn-client-token' must be a 'SignedHeader'"):
        authenticator().verify(with_header(request, "x-amzn-client-token", "1"), SERVICE)


@pytest.mark.parametrize(
    ("sent", "signed"),
    [
        ("sourceRefContains=a+b", "sourceRefContains=a%20b"),
        ("sourceRefContains=a/b:c", "sourceRefContains=a%2Fb%3Ac"),
        ("sourceRefContains=%c3%a4~", "sourceRefContains=%C3%A4~"),
        ("b=2&a=1&labeled", "a=1&b=2&labeled="),
    ],
)
def test_a_query_may_be_sent_in_another_encoding_than_it_is_signed_in(
    sent: str, signed: str
) -> None:
    request = plainly_signed("/2020-11-20/projects", sent, signed, b"", [])
    assert authenticator().verify(request, SERVICE)[1] == b""
    for altered in (sent + "x", sent + "&maxResults=1", ""):
        with pytest.raises(NotAuthenticated):
            authenticator().verify(replace(request, raw_query=altered), SERVICE)
