"""Long lists, a page at a time, at the same cost for the first page and for the last.

A page begins behind the last row of the one before, found by an index on the ordering column: what
is added or deleted between two pages makes no row come twice or be left out. NextToken holds that
row's number with a digest of it and the listing (account, operation, filters). It grants nothing,
as each page is filtered by the account again.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import struct
from typing import Any, Dict, NamedTuple, Sequence

from sqlalchemy import Column, Row, Select

from edge_agent.service.call import Call
from edge_agent.service.faults import ValidationFailed
from edge_agent.service.records.database import Transaction
from edge_agent.service.records.digest import digest

MOST_RESULTS = 100  # also when the caller names no number

_POSITION = struct.Struct(">q")


class Page(NamedTuple):
    """Rows, and the answer's member NextToken where more follow."""

    rows: Sequence[Row[Any]]
    token: Dict[str, object]


def page_of(call: Call, transaction: Transaction, query: Select[Any], key: Column[int]) -> Page:
    """Return the page that MaxResults and NextToken of the call ask for, in the order of `key`.

    `query` selects `key` among others, filters by the account, and has neither order nor limit.
    The rows' `key` rises; no two rows have the same. Raises ValidationFailed for a NextToken that
    is none of this listing.
    """
    most = int(call.parameters.get("MaxResults", MOST_RESULTS))
    after = call.parameters.get("NextToken")
    if after:
        query = query.where(key > _position(call, after))
    rows = transaction.connection.execute(query.order_by(key).limit(most + 1)).fetchall()
    if len(rows) <= most:
        return Page(rows, {})
    return Page(rows[:most], {"NextToken": _token(call, rows[most - 1]._mapping[key])})


def _position(call: Call, token: str) -> int:
    """Return the number of the row behind which the page begins."""
    try:
        content = base64.b64decode(token, validate=True)
        (position,) = _POSITION.unpack(content[: _POSITION.size])
    except (binascii.Error, struct.error):
        position = None
    if position is None or token != _token(call, position):
        raise ValidationFailed(
            "NextToken isn't one of this list. Take it from the previous answer to the same call "
            "with the same filters, or leave it out to begin with the first page."
        )
    return int(position)


def _token(call: Call, position: int) -> str:
    listing = digest(call, without=("NextToken", "MaxResults"))
    number = _POSITION.pack(position)
    return base64.b64encode(number + hashlib.sha256(number + listing).digest()[:16]).decode()
