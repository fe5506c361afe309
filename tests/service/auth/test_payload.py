"""Every form in which SDKs sign a body is taken, and a changed body in none."""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256
from typing import List

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.service.auth.http_request import HttpRequest
from edge_agent.service.auth.refusals import IncompleteSignature, NotAuthenticated, WrongSignature
from tests.service.auth.signing import (
    SERVICE,
    SIGNED_CHUNKS,
    UNSIGNED_CHUNKS,
    WITH_TRAILER,
    authenticator,
    in_chunks,
    signed,
)

FORMS = [SIGNED_CHUNKS, WITH_TRAILER, UNSIGNED_CHUNKS]
HASH = "x-amz-content-sha256"
FAR_AWAY = "192.0.2.1"


def verify(request: HttpRequest) -> bytes:
    return authenticator().verify(request, SERVICE)[1]


@pytest.mark.parametrize("form", FORMS)
@given(chunks=st.lists(st.binary(min_size=1, max_size=40), max_size=4))
@settings(max_examples=30, deadline=None)
def test_chunks_are_put_together(form: str, chunks: List[bytes]) -> None:
    assert verify(in_chunks(form, chunks)) == b"".join(chunks)


@pytest.mark.parametrize("form", FORMS)
@given(at=st.integers(0, 1000), letter=st.binary(min_size=1, max_size=1))
@settings(max_examples=150, deadline=None)
def test_any_altered_byte_of_chunks_is_refused(form: str, at: int, letter: bytes) -> None:
    request = in_chunks(form, [b"first chunk", b"the second"])
    place = at % len(request.body.rstrip())
    body = request.body[:place] + letter + request.body[place + 1 :]
    if body.lower() == request.body.lower():
        return  # sizes and names of headers are the same in either case
    try:
        assert verify(replace(request, body=body)) == b"first chunkthe second"  # white space only
    except NotAuthenticated:
        return
    assert body[place : place + 1].isspace() or request.body[place : place + 1].isspace()


@pytest.mark.parametrize("form", FORMS)
def test_chunks_that_are_missing_swapped_or_cut_are_refused(form: str) -> None:
    request = in_chunks(form, [b"first", b"other", b"third"])
    whole = request.body
    first, second = whole.index(b"first"), whole.index(b"other")
    lines = whole[:first], whole[first + 7 : second]
    swapped = lines[1] + b"other\r\n" + lines[0] + b"first\r\n" + whole[second + 7 :]
    for body in (whole[first + 7 :], swapped, whole[: second + 7], whole[:first], b""):
        with pytest.raises(NotAuthenticated):
            verify(replace(request, body=body))


def test_a_decoded_length_that_is_wrong_is_refused() -> None:
    request = in_chunks(SIGNED_CHUNKS, [b"five5"])
    headers = {"x-amz-decoded-content-length": "6", HASH: SIGNED_CHUNKS}
    other = signed(body=b"", headers=headers)
    with pytest.raises(WrongSignature):  # the chunks are signed after another seed
        verify(replace(other, body=request.body))


def test_a_checksum_that_is_not_known_is_named() -> None:
    with pytest.raises(IncompleteSignature, match="x-amz-checksum-crc32, x-amz-checksum-sha1"):
        verify(in_chunks(UNSIGNED_CHUNKS, [b"one"], checksum="x-amz-checksum-crc64nvme"))


def test_the_hash_in_the_header_must_be_the_bodys() -> None:
    body = b'{"ProjectName": "cookies"}'
    right = signed(body=body, headers={HASH: sha256(body).hexdigest()})
    assert verify(right) == body
    for given_hash in (
        sha256(b"other").hexdigest(),
        "STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD",
        "",
    ):
        with pytest.raises(WrongSignature, match="isn't the SHA-256 of the body"):
            verify(signed(body=body, headers={HASH: given_hash}))


@pytest.mark.parametrize("form", ["UNSIGNED-PAYLOAD", UNSIGNED_CHUNKS])
def test_an_unsigned_body_is_taken_where_nobody_can_alter_it(form: str) -> None:
    request = in_chunks(form, [b"image"])
    if form == "UNSIGNED-PAYLOAD":
        request = signed(body=b"image", headers={HASH: form})
    assert verify(request) == b"image"  # from this machine
    far = replace(request, peer=FAR_AWAY)
    assert verify(replace(far, secure=True)) == b"image"
    with pytest.raises(IncompleteSignature, match="over HTTPS only"):
        verify(far)
