"""AWS's Signature Version 4: what is signed of a request, and the signature of it.

Written from AWS's public description ("Create a signed AWS API request"). The canonical path is
made of the bytes that were sent, the canonical query of the names and values that are read from it:
no change of what a call means goes unseen.
"""

from __future__ import annotations

import hmac
from hashlib import sha256
from typing import Sequence, Tuple
from urllib.parse import parse_qsl, quote

from edge_agent.service.auth.claims import ALGORITHM, Claim
from edge_agent.service.auth.http_request import HttpRequest

NO_BODY = sha256(b"").hexdigest()


def signing_key(secret: str, scope: Sequence[str]) -> bytes:
    """Return the key for one day, region and service of a secret."""
    key = f"AWS4{secret}".encode()
    for part in scope:
        key = hmac.digest(key, part.encode(), "sha256")
    return key


def sign(key: bytes, text: str) -> str:
    """Return the signature of a text, in hex."""
    return hmac.new(key, text.encode(), sha256).hexdigest()


def string_to_sign(request: HttpRequest, claim: Claim, payload_hash: str) -> str:
    """Return what the signature of a request is made of."""
    canonical = canonical_request(request, claim.signed_headers, payload_hash)
    digest = sha256(canonical.encode()).hexdigest()
    return "\n".join((ALGORITHM, claim.time_text, "/".join(claim.scope), digest))


def canonical_request(
    request: HttpRequest, signed_headers: Tuple[str, ...], payload_hash: str
) -> str:
    """Return the request in the one form that both sides sign."""
    headers = [f"{name}:{_header(request, name)}\n" for name in signed_headers]
    return "\n".join(
        (
            request.method,
            quote(request.raw_path.encode("latin-1"), safe="/~") or "/",
            _canonical_query(request.raw_query),
            "".join(headers),
            ";".join(signed_headers),
            payload_hash,
        )
    )


def _canonical_query(raw_query: str) -> str:
    """Return names and values in the one encoding that is signed; clients send them in others."""
    pairs = parse_qsl(raw_query, keep_blank_values=True, encoding="latin-1")
    encoded = [(_encoded(name), _encoded(value)) for name, value in pairs]
    return "&".join(
        f"{name}={value}" for name, value in sorted(encoded) if name != "X-Amz-Signature"
    )


def _encoded(text: str) -> str:
    return quote(text, safe="-_.~", encoding="latin-1")


def _header(request: HttpRequest, name: str) -> str:
    return ",".join(" ".join(value.split()) for value in request.header_values(name))
