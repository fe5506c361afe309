"""What a request claims about its signature: in the Authorization header, or in a presigned query.

The two forms are those of AWS's Signature Version 4. Nothing is verified here.
"""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Dict, List, Mapping, Optional, Tuple
from urllib.parse import unquote

from edge_agent.service.auth.http_request import HttpRequest
from edge_agent.service.auth.refusals import IncompleteSignature, NoSignature, NotAuthenticated

ALGORITHM = "AWS4-HMAC-SHA256"
TIME_FORMAT = "%Y%m%dT%H%M%SZ"
MOST_KEY_CHARACTERS = 128  # as with AWS
LONGEST_PRESIGNED_S = 7 * 24 * 3600
PRESIGNED = ("Algorithm", "Credential", "Date", "Expires", "SignedHeaders", "Signature")


@dataclass(frozen=True)
class Claim:
    """A signature and what it was made with."""

    access_key: str
    scope: Tuple[str, str, str, str]  # date, region, service, aws4_request
    signed_headers: Tuple[str, ...]
    signature: str
    time: datetime
    lifetime_s: Optional[int]  # of a presigned request

    @property
    def time_text(self) -> str:
        """As it was signed."""
        return self.time.strftime(TIME_FORMAT)


def claim_of(request: HttpRequest) -> Claim:
    """Return what the request claims. Raises NoSignature, IncompleteSignature."""
    header, query = request.header("authorization"), _presigned(request.raw_query)
    if header is not None and "X-Amz-Signature" in query:
        raise IncompleteSignature(
            "The request is signed twice, in the Authorization header and in the query; sign it "
            "once."
        )
    if header is not None:
        return _of_header(header, request)
    if query:
        return _of_query(query)
    raise NoSignature("Missing Authentication Token")


def claimed_key(request: HttpRequest) -> str:
    """Return the access key id that a request names, if any; nothing is verified."""
    try:
        return claim_of(request).access_key[:MOST_KEY_CHARACTERS]
    except NotAuthenticated:
        return ""


def query_pairs(raw_query: str) -> List[Tuple[str, str]]:
    """Return names and values as they were sent, percent-encoded."""
    pairs = [pair.partition("=") for pair in raw_query.split("&")] if raw_query else []
    return [(name, value) for name, _, value in pairs]


def _of_header(header: str, request: HttpRequest) -> Claim:
    algorithm, _, rest = header.partition(" ")
    if algorithm != ALGORITHM:
        raise IncompleteSignature(f"The Authorization header must begin with {ALGORITHM}.")
    parts = [part.strip().partition("=") for part in rest.split(",")]
    values = {name: value for name, _, value in parts}
    if len(values) < len(parts):
        raise IncompleteSignature("A part of the Authorization header stands in it twice.")
    needed = {name: values.get(name, "") for name in ("Credential", "SignedHeaders", "Signature")}
    _refuse_missing(needed, "Authorization header requires {!r} parameter.")
    return _claim(needed, _time_of(request), None)


def _of_query(query: Mapping[str, str]) -> Claim:
    values = {name: query.get(f"X-Amz-{name}", "") for name in PRESIGNED}
    _refuse_missing(values, "AWS query-string parameters must include 'X-Amz-{}'.")
    if values["Algorithm"] != ALGORITHM:
        raise IncompleteSignature(f"X-Amz-Algorithm must be {ALGORITHM}.")
    lifetime = values["Expires"]
    if not re.fullmatch("[0-9]{1,6}", lifetime) or not 1 <= int(lifetime) <= LONGEST_PRESIGNED_S:
        raise IncompleteSignature(
            f"X-Amz-Expires must be a number of seconds from 1 to {LONGEST_PRESIGNED_S}."
        )
    return _claim(values, _basic_time(values["Date"]), int(lifetime))


def _claim(values: Mapping[str, str], time: datetime, lifetime_s: Optional[int]) -> Claim:
    access_key, *scope = values["Credential"].split("/")
    if len(scope) != 4 or not all((access_key, *scope)):
        raise IncompleteSignature(
            "Credential must have exactly 5 slash-delimited elements, "
            "e.g. keyid/date/region/service/term."
        )
    date, region, service, term = scope
    signed_headers = tuple(values["SignedHeaders"].split(";"))
    return Claim(
        access_key,
        (date, region, service, term),
        signed_headers,
        values["Signature"],
        time,
        lifetime_s,
    )


def _presigned(raw_query: str) -> Dict[str, str]:
    """Return the parts of a presigned query, by their names; empty when there are none."""
    names = {f"X-Amz-{name}" for name in PRESIGNED}
    pairs = [(name, unquote(value)) for name, value in query_pairs(raw_query) if name in names]
    if len(dict(pairs)) < len(pairs):
        raise IncompleteSignature("A part of the signature stands in the query twice.")
    return dict(pairs)


def _refuse_missing(values: Mapping[str, str], sentence: str) -> None:
    missing = [sentence.format(name) for name, value in values.items() if not value]
    if missing:
        raise IncompleteSignature(" ".join(missing))


def _time_of(request: HttpRequest) -> datetime:
    text = request.header("x-amz-date")
    if text is not None:
        return _basic_time(text)
    text = request.header("date")
    if text is None:
        raise IncompleteSignature(
            "Authorization header requires existence of either a 'X-Amz-Date' or a 'Date' header."
        )
    try:
        time = parsedate_to_datetime(text)
    except (ValueError, TypeError, OverflowError):
        return _basic_time(text)
    return time.replace(tzinfo=timezone.utc)  # HTTP dates are in GMT


def _basic_time(text: str) -> datetime:
    if re.fullmatch("[0-9]{8}T[0-9]{6}Z", text):
        with contextlib.suppress(ValueError):
            return datetime.strptime(text, TIME_FORMAT).replace(tzinfo=timezone.utc)
    raise IncompleteSignature("Date must be in ISO-8601 'basic format', such as 20201120T080000Z.")
