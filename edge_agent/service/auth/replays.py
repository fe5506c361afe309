"""A signature is used once: who repeats a recorded request changes nothing.

What changes something is refused when its signature was used before. Two exceptions keep honest
clients working, since signatures know the time by the second only:

- A call with a client token passes: the token is signed, and answers with the first answer.
- Clients of AWS number their attempts in headers that they don't sign. Within `RETRY_WITHIN_S` of
  the first call, the same signature with another number is a retry, or the same call made twice
  in a second. A recorded request, repeated as it was, is refused at once; a forged number is of use
  for these few seconds only, and not at all where the service is reached over TLS.

Calls that only read may be repeated while their signature is valid, as with AWS.
"""

from __future__ import annotations

from typing import Any, Sequence

from sqlalchemy import Row, delete, insert, select

from edge_agent.service.auth.authenticator import Principal
from edge_agent.service.auth.refusals import WrongSignature
from edge_agent.service.records.database import Transaction
from edge_agent.service.records.schema import SIGNATURES

RETRY_WITHIN_S = 5.0


def refuse_replay(transaction: Transaction, principal: Principal, now: float) -> None:
    """Record the signature of a call that changes something and has no client token.

    To be called in the call's own writing transaction, before its operation: when the call fails,
    its signature isn't used up. Raises WrongSignature when it was used before.
    """
    if not principal.signature:
        return
    table, connection = SIGNATURES.c, transaction.connection
    connection.execute(delete(SIGNATURES).where(table.until < now))
    used = select(table.created, table.attempt).where(table.signature == principal.signature)
    before = connection.execute(used).all()
    if before and not _is_retry(before, principal.attempt, now):
        raise WrongSignature("The signature was used before. Sign the call again.")
    connection.execute(
        insert(SIGNATURES).values(
            signature=principal.signature,
            attempt=principal.attempt,
            created=now,
            until=principal.until,
        )
    )


def _is_retry(before: Sequence[Row[Any]], attempt: str, now: float) -> bool:
    """Whether this is another attempt than those `before`, soon after the first of them."""
    numbered = attempt and attempt not in [row.attempt for row in before]
    return bool(numbered) and now - min(row.created for row in before) <= RETRY_WITHIN_S
