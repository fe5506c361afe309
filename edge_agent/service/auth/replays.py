"""A signature is used once: who repeats a recorded request changes nothing.

A call that changes something is refused when its signature was used before, done or not: so nobody
does later what was refused at first. A call with a client token whose answer is known doesn't come
here, it gets that answer. Honest clients repeat calls within seconds, and signatures know the time
by the second only. Within `RETRY_WITHIN_S` of the first call, these pass:

- a call that was refused before;
- one of an operation that takes no client token: to do it twice is the same as to do it once;
- another attempt of a client of AWS, which numbers them in headers that it doesn't sign. A recorded
  request, repeated as it was, is refused at once; a forged number is of use for these few seconds
  only, and not at all where the service is reached over TLS.

Calls that only read may be repeated while their signature is valid, as with AWS.
"""

from __future__ import annotations

from sqlalchemy import delete, select
from sqlalchemy.dialects.sqlite import insert

from edge_agent.service.auth.authenticator import Principal
from edge_agent.service.auth.refusals import WrongSignature
from edge_agent.service.records.database import Transaction
from edge_agent.service.records.schema import SIGNATURES

RETRY_WITHIN_S = 5.0


def refuse_replay(
    transaction: Transaction, principal: Principal, now: float, repeatable: bool = False
) -> None:
    """Use up the signature of a call that changes something.

    To be called in the call's own writing transaction, before its operation. `repeatable`: whether
    to do it twice is the same as to do it once. Raises WrongSignature when it was used before.
    """
    used = select(SIGNATURES).where(SIGNATURES.c.signature == principal.signature)
    before = transaction.connection.execute(used).all() if principal.signature else []
    done = [row.attempt for row in before if row.acted]
    is_late = any(now - row.created > RETRY_WITHIN_S for row in before)
    is_new = not done or repeatable or (principal.attempt and principal.attempt not in done)
    if is_late or not is_new:
        raise WrongSignature("The signature was used before. Sign the call again.")
    use_up(transaction, principal, now, acted=True)


def use_up(transaction: Transaction, principal: Principal, now: float, acted: bool) -> None:
    """Record a signature; `acted`: whether its call was done, and not refused."""
    if not principal.signature:
        return
    connection = transaction.connection
    connection.execute(delete(SIGNATURES).where(SIGNATURES.c.until < now))
    put = insert(SIGNATURES).values(
        signature=principal.signature,
        attempt=principal.attempt,
        created=now,
        until=principal.until,
        acted=acted,
    )
    if acted:
        put = put.on_conflict_do_update(("signature", "attempt"), set_={"acted": True})
    connection.execute(put if acted else put.on_conflict_do_nothing())
