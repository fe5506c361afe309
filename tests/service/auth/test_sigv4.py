"""AWS's published examples give the published signatures."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import List, Tuple

import pytest

from edge_agent.service.auth.claims import TIME_FORMAT, Claim
from edge_agent.service.auth.http_request import HttpRequest
from edge_agent.service.auth.payload import SIGNED_CHUNKS, SIGNED_CHUNKS_AND_TRAILER, body_of
from edge_agent.service.auth.refusals import IncompleteSignature, WrongSignature
from edge_agent.service.auth.sigv4 import NO_BODY, sign, signing_key, string_to_sign

SUITE_SECRET = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
S3_SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
DATE = ("x-amz-date", "20150830T123600Z")
HOST = ("host", "example.amazonaws.com")
FORM = "application/x-www-form-urlencoded"
A = b"a" * 65536, b"a" * 1024

# name → method, path, query, further headers, signature; of AWS's SigV4 test suite
SUITE = {
    "get-vanilla": (
        "GET", "/", "", [],
        "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31",
    ),
    "post-vanilla": (
        "POST", "/", "", [],
        "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b",
    ),
    "get-vanilla-query-order-key-case": (
        "GET", "/", "Param2=value2&Param1=value1", [],
        "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500",
    ),
    "get-header-value-trim": (
        "GET", "/", "", [("my-header1", " value1"), ("my-header2", ' "a   b   c"')],
        "acc3ed3afb60bb290fc8d2dd0098b9911fcaa05412b367055dee359757a9c736",
    ),
    "get-unreserved": (
        "GET", "/-._~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz", "", [],
        "07ef7494c76fa4850883e2b006601f940f8a34d404d0cfa977f52a65bbf5f24f",
    ),
}  # fmt: skip


def request_of(
    method: str, path: str, query: str, headers: List[Tuple[str, str]], body: bytes = b""
) -> HttpRequest:
    return HttpRequest(method, path, query, headers, body, peer="192.0.2.1", secure=False)


def claim(headers: List[Tuple[str, str]], signature: str, time: str, service: str) -> Claim:
    names = tuple(sorted(name for name, _ in headers))
    at = datetime.strptime(time, TIME_FORMAT).replace(tzinfo=timezone.utc)
    scope = (time[:8], "us-east-1", service, "aws4_request")
    return Claim("AKIDEXAMPLE", scope, names, signature, at, None)


@pytest.mark.parametrize("name", SUITE)
def test_the_signature_is_that_of_the_test_suite(name: str) -> None:
    method, path, query, more, expected = SUITE[name]
    headers = [HOST, DATE, *more]
    claimed = claim(headers, "", DATE[1], "service")
    text = string_to_sign(request_of(method, path, query, headers), claimed, NO_BODY)
    assert sign(signing_key(SUITE_SECRET, claimed.scope), text) == expected


def test_the_signature_is_that_of_the_documented_call_of_iam() -> None:
    headers = [
        ("host", "iam.amazonaws.com"), DATE, ("content-type", f"{FORM}; charset=utf-8"),
    ]  # fmt: skip
    claimed = claim(headers, "", DATE[1], "iam")
    request = request_of("GET", "/", "Action=ListUsers&Version=2010-05-08", headers)
    text = string_to_sign(request, claimed, NO_BODY)
    expected = "5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7"
    assert sign(signing_key(SUITE_SECRET, claimed.scope), text) == expected


CHUNKED_SEED = "4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9"
CHUNK_SIGNATURES = (
    "ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648",
    "0055627c9e194cb4542bae2aa5492e3c1575bbb81b612b7d234b86a503ef5497",
    "b6c6ea8a5354eaf15b3cb7646744f4275b71ea724fed81ceb9323e279d449df9",
)
TRAILED_SEED = "106e2a8a18243abcf37539882f36619c00e2dfc72633413f02d3b74544bfeb8e"
TRAILED_SIGNATURES = (
    "b474d8862b1487a5145d686f57f013e54db672cee1c953b3010fb58501ef5aa2",
    "1c1344b170168f8e65b41376b44b20fe354e373826ccbbe2c1d40a8cae51e5c7",
    "2ca2aba2005185cf7159c6277faf83795951dd77a3a99e6e65d5c9f85863f992",
)
TRAILER_SIGNATURE = "d81f82fc3505edab99d459891051a732e8730629a2e4a59689829ca17fe2e435"


def documented_upload(form: str, more: List[Tuple[str, str]]) -> List[Tuple[str, str]]:
    return [
        ("host", "s3.amazonaws.com"),
        ("x-amz-date", "20130524T000000Z"),
        ("x-amz-storage-class", "REDUCED_REDUNDANCY"),
        ("x-amz-content-sha256", form),
        ("content-encoding", "aws-chunked"),
        ("x-amz-decoded-content-length", "66560"),
        *more,
    ]


def framed(signatures: Tuple[str, ...], end: bytes) -> bytes:
    body = b""
    for chunk, signature in zip((*A, b""), signatures):
        body += f"{len(chunk):x};chunk-signature={signature}\r\n".encode() + chunk
        body += b"\r\n" if chunk else b""
    return body + end


def test_chunks_are_verified_as_in_the_documented_upload() -> None:
    headers = documented_upload(SIGNED_CHUNKS, [("content-length", "66824")])
    claimed = claim(headers, CHUNKED_SEED, "20130524T000000Z", "s3")
    key = signing_key(S3_SECRET, claimed.scope)
    body = framed(CHUNK_SIGNATURES, b"\r\n")
    request = request_of("PUT", "/examplebucket/chunkObject.txt", "", headers, body)
    assert sign(key, string_to_sign(request, claimed, SIGNED_CHUNKS)) == CHUNKED_SEED
    assert body_of(request, claimed, key) == b"".join(A)


def test_trailers_are_verified_as_in_the_documented_upload() -> None:
    """Its checksum is of a kind that isn't taken here, which is said of a right signature."""
    headers = documented_upload(
        SIGNED_CHUNKS_AND_TRAILER, [("x-amz-trailer", "x-amz-checksum-crc32c")]
    )
    claimed = claim(headers, TRAILED_SEED, "20130524T000000Z", "s3")
    key = signing_key(S3_SECRET, claimed.scope)
    line = b"x-amz-checksum-crc32c:sOO8/Q==\r\nx-amz-trailer-signature:"
    for signature, refusal in (
        (TRAILER_SIGNATURE, IncompleteSignature),
        ("0" * 64, WrongSignature),
    ):
        body = framed(TRAILED_SIGNATURES, line + signature.encode() + b"\r\n\r\n")
        request = request_of("PUT", "/examplebucket/chunkObject.txt", "", headers, body)
        assert sign(key, string_to_sign(request, claimed, SIGNED_CHUNKS_AND_TRAILER)) == (
            TRAILED_SEED
        )
        with pytest.raises(refusal):
            body_of(request, claimed, key)
