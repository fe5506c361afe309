"""Requests signed by botocore, and chunks signed here as AWS describes them."""

from __future__ import annotations

import base64
import time
import zlib
from dataclasses import replace
from hashlib import sha256
from typing import Dict, List, Optional, Tuple
from urllib.parse import urlsplit

from botocore.auth import SigV4Auth, SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from edge_agent.service.auth.access_keys import AccessKey
from edge_agent.service.auth.authenticator import Authenticator
from edge_agent.service.auth.claims import claim_of
from edge_agent.service.auth.http_request import HttpRequest
from edge_agent.service.auth.sigv4 import sign, signing_key

SERVICE = "lookoutvision"
KEY = AccessKey("AKIDEXAMPLE", "123456789012", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", 0.0)
SIGNED_CHUNKS = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"
WITH_TRAILER = f"{SIGNED_CHUNKS}-TRAILER"
UNSIGNED_CHUNKS = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"
NO_BODY = sha256(b"").hexdigest()


def authenticator(later_s: float = 0.0, unsigned_account: Optional[str] = None) -> Authenticator:
    """Knows `KEY`; its clock is `later_s` ahead."""
    keys = {KEY.id: KEY}
    return Authenticator(keys.get, unsigned_account, lambda: time.time() + later_s)


def signed(
    path: str = "/2020-11-20/projects",
    method: str = "POST",
    body: bytes = b"{}",
    headers: Optional[Dict[str, str]] = None,
    key: AccessKey = KEY,
    service: str = SERVICE,
    token: Optional[str] = None,
    endpoint: str = "http://127.0.0.1:8600",
) -> HttpRequest:
    """A request as botocore signs it; `path` percent-encoded, with its query."""
    request = AWSRequest(method, f"{endpoint}{path}", headers or {}, body)
    SigV4Auth(Credentials(key.id, key.secret, token), service, "us-east-1").add_auth(request)
    return as_received(request)


def presigned(path: str, expires_s: int = 60, body: bytes = b"") -> HttpRequest:
    request = AWSRequest("GET", f"http://127.0.0.1:8600{path}", {}, body)
    credentials = Credentials(KEY.id, KEY.secret)
    SigV4QueryAuth(credentials, SERVICE, "us-east-1", expires_s).add_auth(request)
    return as_received(request)


def as_received(request: AWSRequest) -> HttpRequest:
    sent = request.prepare()
    headers = [(name.lower(), str(value)) for name, value in request.headers.items()]
    if not any(name == "host" for name, _ in headers):
        headers.append(("host", urlsplit(sent.url).netloc))
    url = urlsplit(sent.url)
    body = sent.body or b""
    return HttpRequest(
        request.method, url.path, url.query, headers, body, peer="127.0.0.1", secure=False
    )


def with_header(request: HttpRequest, name: str, value: Optional[str]) -> HttpRequest:
    """The request with another value of a header; None: without it."""
    kept = [pair for pair in request.headers if pair[0] != name]
    return replace(request, headers=kept if value is None else [*kept, (name, value)])


def in_chunks(
    form: str,
    chunks: List[bytes],
    checksum: str = "x-amz-checksum-crc32",
    key: AccessKey = KEY,
    endpoint: str = "http://127.0.0.1:8600",
) -> HttpRequest:
    """A request whose body is sent in chunks; the last, empty one is added."""
    size = sum(map(len, chunks))
    headers = {
        "x-amz-content-sha256": form,
        "x-amz-decoded-content-length": str(size),
        "content-encoding": "aws-chunked",
    }
    if form != SIGNED_CHUNKS:
        headers["x-amz-trailer"] = checksum
    request = signed(body=b"", headers=headers, key=key, endpoint=endpoint)
    value = base64.b64encode(zlib.crc32(b"".join(chunks)).to_bytes(4, "big")).decode()
    return replace(request, body=frames(request, form, chunks, (checksum, value), key))


def frames(
    request: HttpRequest,
    form: str,
    chunks: List[bytes],
    trailer: Tuple[str, str],
    access_key: AccessKey,
) -> bytes:
    claim = claim_of(request)
    key, scope = signing_key(access_key.secret, claim.scope), "/".join(claim.scope)
    facts, before = f"{claim.time_text}\n{scope}", claim.signature
    body = b""
    for chunk in [*chunks, b""]:
        digest = sha256(chunk).hexdigest()
        before = sign(key, f"AWS4-HMAC-SHA256-PAYLOAD\n{facts}\n{before}\n{NO_BODY}\n{digest}")
        note = "" if form == UNSIGNED_CHUNKS else f";chunk-signature={before}"
        body += f"{len(chunk):x}{note}\r\n".encode() + chunk + (b"\r\n" if chunk else b"")
    if form == SIGNED_CHUNKS:
        return body + b"\r\n"
    line = ":".join(trailer)
    body += f"{line}\r\n".encode()
    if form == WITH_TRAILER:
        digest = sha256(f"{line}\n".encode()).hexdigest()
        signature = sign(key, f"AWS4-HMAC-SHA256-TRAILER\n{facts}\n{before}\n{digest}")
        body += f"x-amz-trailer-signature:{signature}\r\n".encode()
    return body + b"\r\n"
