"""The forms in which SDKs sign a body, and the body without the frames of its chunks.

| x-amz-content-sha256, if it is signed | the body is |
|---|---|
| none, or a SHA-256 in hex | as it came, and signed |
| UNSIGNED-PAYLOAD | as it came; only where nobody can alter it on its way |
| STREAMING-AWS4-HMAC-SHA256-PAYLOAD | in chunks, each signed after the one before |
| STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER | the same, with a checksum at the end, signed too |
| STREAMING-UNSIGNED-PAYLOAD-TRAILER | in chunks, with a checksum; where nobody can alter it |

Nobody can alter a body that comes over TLS, or from a program on this machine. A header that isn't
signed says nothing, as with AWS: the SHA-256 of the body is then what is signed.
"""

from __future__ import annotations

import base64
import hmac
import re
import zlib
from dataclasses import dataclass
from hashlib import sha1, sha256
from typing import Callable, Dict, Iterator, List, Optional, Tuple

from edge_agent.service.auth.claims import ALGORITHM, Claim, query_pairs
from edge_agent.service.auth.http_request import HttpRequest
from edge_agent.service.auth.refusals import IncompleteSignature, WrongSignature
from edge_agent.service.auth.sigv4 import NO_BODY, sign

UNSIGNED = "UNSIGNED-PAYLOAD"
SIGNED_CHUNKS = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"
SIGNED_CHUNKS_AND_TRAILER = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER"
UNSIGNED_CHUNKS = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"
FORMS = (UNSIGNED, SIGNED_CHUNKS, SIGNED_CHUNKS_AND_TRAILER, UNSIGNED_CHUNKS)
HASH = "X-Amz-Content-Sha256"

CHECKSUMS: Dict[str, Callable[[bytes], bytes]] = {
    "x-amz-checksum-crc32": lambda body: zlib.crc32(body).to_bytes(4, "big"),
    "x-amz-checksum-sha1": lambda body: sha1(body).digest(),
    "x-amz-checksum-sha256": lambda body: sha256(body).digest(),
}

_SIZE = re.compile(rb"([0-9a-fA-F]{1,8})(?:;chunk-signature=([0-9a-f]{64}))?\r\n")


def check_form(request: HttpRequest, claim: Claim) -> None:
    """Raise IncompleteSignature for a body that isn't signed and may be altered on its way."""
    form = _form(request, claim)
    safe = request.secure or request.from_this_machine
    if form in (UNSIGNED, UNSIGNED_CHUNKS) and not safe:
        raise IncompleteSignature(
            f"{form} is taken over HTTPS only; sign the body, or call over HTTPS."
        )


def payload_hash(request: HttpRequest, claim: Claim) -> str:
    """Return what stands for the body in the canonical request.

    Raises WrongSignature for a hash that isn't the body's, or a form of payload that isn't taken.
    """
    given = _form(request, claim)
    if given in FORMS:
        return given
    computed = sha256(request.body).hexdigest()
    if given is not None and not hmac.compare_digest(given.encode(), computed.encode()):
        raise WrongSignature(
            "The value of the header x-amz-content-sha256 isn't the SHA-256 of the body, nor a "
            f"form of payload: {', '.join(FORMS)}."
        )
    return computed


def _form(request: HttpRequest, claim: Claim) -> Optional[str]:
    """Return the signed x-amz-content-sha256; in a presigned query it may stand, too."""
    if HASH.lower() in claim.signed_headers:
        return request.header(HASH.lower())
    if claim.lifetime_s is not None:
        return dict(query_pairs(request.raw_query)).get(HASH)
    return None


def body_of(request: HttpRequest, claim: Claim, key: bytes) -> bytes:
    """Return the body, after the signatures and the checksum in it were found to be right.

    Raises WrongSignature, IncompleteSignature.
    """
    form = _form(request, claim)
    if form not in (SIGNED_CHUNKS, SIGNED_CHUNKS_AND_TRAILER, UNSIGNED_CHUNKS):
        return request.body
    chunks, trailer = _frames(request.body)
    body = b"".join(chunk.content for chunk in chunks)
    if form != UNSIGNED_CHUNKS:
        _verify_signatures(chunks, trailer, claim, key, form == SIGNED_CHUNKS_AND_TRAILER)
    if form != SIGNED_CHUNKS:
        _verify_checksum(request, trailer, body)
    elif trailer:
        raise _not_framed()
    if request.header("x-amz-decoded-content-length") not in (None, str(len(body))):
        raise WrongSignature(
            f"The chunks of the body have {len(body)} bytes together; "
            "x-amz-decoded-content-length says something else."
        )
    return body


@dataclass(frozen=True)
class _Chunk:
    content: memoryview
    signature: str  # empty: none


def _frames(body: bytes) -> Tuple[List[_Chunk], Dict[str, str]]:
    """Return the chunks, the last of which is empty, and the headers after them."""
    chunks: List[_Chunk] = []
    at, view = 0, memoryview(body)
    while not chunks or chunks[-1].content:
        size = _SIZE.match(body, at)
        if not size:
            raise _not_framed()
        start, length = size.end(), int(size[1], 16)
        at = start + length
        if length:
            if body[at : at + 2] != b"\r\n":
                raise _not_framed()
            at += 2
        signature = (size[2] or b"").decode()
        chunks.append(_Chunk(view[start : start + length], signature))
    return chunks, dict(_trailer(body[at:]))


def _trailer(rest: bytes) -> Iterator[Tuple[str, str]]:
    """Yield the headers after the last chunk; SDKs end them with one empty line, or two."""
    text = rest.decode("latin-1").replace("\r\n", "\n")
    for line in text.rstrip("\n").split("\n") if text.strip("\n") else ():
        name, colon, value = line.partition(":")
        if not colon:
            raise _not_framed()
        yield name.strip().lower(), value.strip()


def _verify_signatures(
    chunks: List[_Chunk], trailer: Dict[str, str], claim: Claim, key: bytes, with_trailer: bool
) -> None:
    """Raise WrongSignature unless each chunk is signed, after the signature of the one before."""
    facts = f"{claim.time_text}\n{'/'.join(claim.scope)}"
    before = claim.signature
    for chunk in chunks:
        digest = sha256(chunk.content).hexdigest()
        text = f"{ALGORITHM}-PAYLOAD\n{facts}\n{before}\n{NO_BODY}\n{digest}"
        before = sign(key, text)
        _compare(before, chunk.signature)
    if with_trailer:
        given = trailer.pop("x-amz-trailer-signature", "")
        lines = "".join(f"{name}:{value}\n" for name, value in trailer.items())
        digest = sha256(lines.encode()).hexdigest()
        _compare(sign(key, f"{ALGORITHM}-TRAILER\n{facts}\n{before}\n{digest}"), given)


def _verify_checksum(request: HttpRequest, trailer: Dict[str, str], body: bytes) -> None:
    name = (request.header("x-amz-trailer") or "").lower()
    if name not in CHECKSUMS:
        raise IncompleteSignature(
            f"The header x-amz-trailer must name one of {', '.join(CHECKSUMS)}."
        )
    expected = base64.b64encode(CHECKSUMS[name](body)).decode()
    if set(trailer) != {name}:
        raise _not_framed()
    if trailer[name] != expected:
        raise WrongSignature(f"The trailer {name} isn't the checksum of the body.")


def _compare(computed: str, given: str) -> None:
    if not hmac.compare_digest(computed.encode(), given.encode()):
        raise WrongSignature(
            "A chunk of the body, or its trailer, doesn't have the signature that was calculated "
            "for it."
        )


def _not_framed() -> IncompleteSignature:
    return IncompleteSignature(
        "The body isn't in chunks as x-amz-content-sha256 says: SIZE;chunk-signature=..., bytes, "
        "..., and a last chunk of size 0."
    )
