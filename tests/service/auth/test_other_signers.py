"""AWS's own signer in C, which most of its SDKs have, signs what is taken here."""

from __future__ import annotations

import io
from typing import Any, Dict, List, Tuple
from urllib.parse import urlsplit

import pytest
from awscrt import auth, http

from edge_agent.service.auth.http_request import HttpRequest
from edge_agent.service.auth.refusals import NotAuthenticated
from tests.service.auth.signing import KEY, SERVICE, authenticator, with_header

CREDENTIALS = auth.AwsCredentialsProvider.new_static(KEY.id, KEY.secret)
IN_QUERY = {
    "signature_type": auth.AwsSignatureType.HTTP_REQUEST_QUERY_PARAMS, "expiration_in_seconds": 60
}  # fmt: skip
WITH_HASH = {"signed_body_header_type": auth.AwsSignedBodyHeaderType.X_AMZ_CONTENT_SHA_256}
PROJECTS = "/2020-11-20/projects"
TAGS = "/2020-11-20/tags/arn%3Aaws%3Alookoutvision%3Aus-east-1%3A1%3Amodel%2Fa%20b%2F1"


def signed_in_c(
    method: str, path: str, headers: List[Tuple[str, str]], body: bytes, **settings: Any
) -> HttpRequest:
    given = http.HttpHeaders([("Host", "127.0.0.1:8600"), *headers])
    request = http.HttpRequest(method, path, given, io.BytesIO(body) if body else None)
    config = auth.AwsSigningConfig(
        algorithm=auth.AwsSigningAlgorithm.V4, credentials_provider=CREDENTIALS,
        region="eu-central-1", service=SERVICE, **settings,
    )  # fmt: skip
    auth.aws_sign_request(request, config).result(60)
    url = urlsplit(request.path)
    sent = [(name.lower(), value) for name, value in request.headers]
    return HttpRequest(method, url.path, url.query, sent, body, "127.0.0.1", secure=False)


@pytest.mark.parametrize(
    ("method", "path", "body", "settings"),
    [
        ("GET", TAGS, b"", {}),
        ("DELETE", f"{TAGS}?tagKeys=b&tagKeys=%20a%2F", b"", {}),
        ("POST", PROJECTS, b'{"ProjectName": "cookies"}', {}),
        ("POST", PROJECTS, b"{}", WITH_HASH),
        ("POST", PROJECTS, b"{}", {**WITH_HASH, "signed_body_value": "UNSIGNED-PAYLOAD"}),
        ("GET", f"{PROJECTS}?maxResults=5", b"", IN_QUERY),
        ("GET", TAGS, b"", IN_QUERY),
    ],
)
def test_what_it_signs_is_taken(
    method: str, path: str, body: bytes, settings: Dict[str, Any]
) -> None:
    headers = [("X-Amzn-Client-Token", "  a   b "), ("Content-Type", "application/json")]
    request = signed_in_c(method, path, headers, body, **settings)
    principal, received = authenticator().verify(request, SERVICE)
    assert (principal.account, principal.region, received) == (KEY.account, "eu-central-1", body)
    with pytest.raises(NotAuthenticated):
        authenticator().verify(with_header(request, "x-amzn-client-token", "c"), SERVICE)
