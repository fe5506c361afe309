"""Who calls: the signature of a request is verified, or the request is refused."""

from __future__ import annotations

import hmac
import re
import time
from dataclasses import dataclass
from datetime import datetime, timezone
from hashlib import sha256
from typing import Callable, Optional, Tuple

from edge_agent.service.auth.access_keys import AccessKey
from edge_agent.service.auth.claims import TIME_FORMAT, Claim, claim_of, query_pairs
from edge_agent.service.auth.http_request import HttpRequest
from edge_agent.service.auth.payload import body_of, check_form, payload_hash
from edge_agent.service.auth.refusals import (
    IncompleteSignature,
    NoSignature,
    UnknownCredentials,
    WrongSignature,
)
from edge_agent.service.auth.sigv4 import sign, signing_key, string_to_sign
from edge_agent.setting_types import LOOPBACK, host_of

SKEW_S = 15 * 60  # between the caller's clock and ours
UNSIGNED_REGION = "us-east-1"
CLIENT_TOKEN = "x-amzn-client-token"  # the header that changes what a call does


@dataclass(frozen=True)
class Principal:
    """Who calls, and the region the call is signed for.

    `signature`, and `attempt` of the client's to send it, are for `replays`; empty when unsigned.
    """

    account: str
    access_key: str
    region: str
    signature: str = ""
    attempt: str = ""
    until: float = 0.0  # the signature is valid; seconds since 1970


class Authenticator:
    """Verifies signatures; may be used by any thread.

    `find`: returns an access key by its id. `unsigned_account`: whose calls without a signature
    are, when they come from this machine; None: they are refused.
    """

    def __init__(
        self,
        find: Callable[[str], Optional[AccessKey]],
        unsigned_account: Optional[str] = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._find = find
        self._unsigned_account = unsigned_account
        self._clock = clock

    def admit(self, request: HttpRequest, service: str) -> Optional[Claim]:
        """Check what can be checked before the body is read; None: the call may be unsigned.

        `service`: whose operations the request reaches, such as lookoutvision; it must be signed
        for this one. Raises NotAuthenticated.
        """
        try:
            claim = claim_of(request)
        except NoSignature:
            self._check_unsigned(request)
            return None
        self._check_time(claim)
        _check_scope(claim, service)
        _refuse_session_token(request)
        _check_what_is_signed(request, claim)
        _check_path(request)
        check_form(request, claim)
        if self._find(claim.access_key) is None:
            raise UnknownCredentials
        return claim

    def verify(self, request: HttpRequest, service: str) -> Tuple[Principal, bytes]:
        """Return who calls and the body without its chunks' frames.

        Raises NotAuthenticated, whatever is wrong with a signature.
        """
        claim = self.admit(request, service)
        if claim is None:
            return Principal(self._unsigned_account or "", "", UNSIGNED_REGION), request.body
        key, account = self._verify_signature(request, claim)
        body = body_of(request, claim, key)
        attempt, until = _attempt(request), _until(claim)
        region = claim.scope[1]
        return Principal(account, claim.access_key, region, claim.signature, attempt, until), body

    def _check_unsigned(self, request: HttpRequest) -> None:
        """Refuse unsigned calls where they aren't taken, and those of web pages in a browser."""
        host = request.header("host") or ""
        local = host.lower().strip("[]") in LOOPBACK or host_of(host) in LOOPBACK
        from_page = request.header("origin") is not None or not local
        if self._unsigned_account is None or not request.from_this_machine or from_page:
            raise NoSignature("Missing Authentication Token")

    def _check_time(self, claim: Claim) -> None:
        now, signed = self._clock(), claim.time.timestamp()
        if signed > now + SKEW_S:
            raise WrongSignature(
                f"Signature not yet current: {claim.time_text} is still later than "
                f"{_text(now + SKEW_S)} ({_text(now)} + 15 min.)"
            )
        if claim.lifetime_s is not None and now > signed + claim.lifetime_s:
            raise WrongSignature(
                f"Signature expired: {_text(now)} is later than "
                f"{_text(signed + claim.lifetime_s)} ({claim.time_text} + X-Amz-Expires)"
            )
        if claim.lifetime_s is None and signed < now - SKEW_S:
            raise WrongSignature(
                f"Signature expired: {claim.time_text} is now earlier than "
                f"{_text(now - SKEW_S)} ({_text(now)} - 15 min.)"
            )

    def _verify_signature(self, request: HttpRequest, claim: Claim) -> Tuple[bytes, str]:
        """Return the signing key and whose it is."""
        known = self._find(claim.access_key)
        if known is None:
            raise UnknownCredentials
        key = signing_key(known.secret, claim.scope)
        text = string_to_sign(request, claim, payload_hash(request, claim))
        if not hmac.compare_digest(sign(key, text).encode(), claim.signature.encode()):
            raise WrongSignature(
                "The request signature we calculated does not match the signature you provided. "
                "Check your AWS Secret Access Key and signing method. Consult the service "
                "documentation for details."
            )
        return key, known.account


def _check_scope(claim: Claim, service: str) -> None:
    date, region, signed_for, term = claim.scope
    wrong = []
    if date != claim.time_text[:8]:
        wrong.append(
            "Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from "
            f"HTTP: {date[:8]!r} != {claim.time_text[:8]!r}."
        )
    if not re.fullmatch("[a-z0-9-]{1,32}", region):
        wrong.append("Credential should be scoped to a valid region.")
    if signed_for != service:
        wrong.append(f"Credential should be scoped to correct service: {service!r}.")
    if term != "aws4_request":
        wrong.append("Credential should be scoped with a valid terminator: 'aws4_request'.")
    if wrong:
        raise WrongSignature(" ".join(wrong))


def _check_what_is_signed(request: HttpRequest, claim: Claim) -> None:
    """Raise IncompleteSignature when a part is unsigned with which the call could be altered.

    The date is part of what is signed, with or without its header. As with AWS, others may be
    unsigned: some clients don't sign the x-amz-content-sha256 that they send.
    """
    needed = {"host"} | ({CLIENT_TOKEN} & {name for name, _ in request.headers})
    unsigned = sorted(needed - set(claim.signed_headers))
    if unsigned:
        raise IncompleteSignature(
            f"{', '.join(map(repr, unsigned))} must be a 'SignedHeader' in the AWS Authorization."
        )


def _check_path(request: HttpRequest) -> None:
    """Raise WrongSignature for a path that signers change before they sign it."""
    parts = request.raw_path.split("/")[1:]
    if not {"", ".", ".."}.isdisjoint(parts[:-1]) or parts[-1:] in (["."], [".."]):
        raise WrongSignature("The path has an empty part or a part of dots; leave it out.")


def _refuse_session_token(request: HttpRequest) -> None:
    in_header = request.header_values("x-amz-security-token")
    if in_header or "X-Amz-Security-Token" in dict(query_pairs(request.raw_query)):
        raise UnknownCredentials(
            "The security token included in the request is invalid. This service has no session "
            "tokens: use an access key of `edge-agent service keys add` without one."
        )


def _until(claim: Claim) -> float:
    """Return until when a signature is valid, in seconds since 1970."""
    lifetime_s = SKEW_S if claim.lifetime_s is None else claim.lifetime_s
    return claim.time.timestamp() + lifetime_s


def _attempt(request: HttpRequest) -> str:
    """Return a digest of what a client's library says about its attempt to send the call."""
    names = ("amz-sdk-invocation-id", "amz-sdk-request")
    values = [value for name in names for value in request.header_values(name)]
    return sha256("\n".join(values).encode()).hexdigest() if values else ""


def _text(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).strftime(TIME_FORMAT)
