"""Client tokens: a call that is made again with its token gets the first answer.

A token belongs to an account and an operation, and is active for 8 hours. Its answer is written in
the transaction of its effect: either both are there after a crash, or neither. Writers wait for
each other: of two calls with one token that come together, the second finds the first's answer.
A call that fails leaves no token.
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import Dict, Optional

from sqlalchemy import delete, insert, select

from edge_agent.service.call import Answer, Call, Operation
from edge_agent.service.faults import Conflict
from edge_agent.service.records.database import Transaction
from edge_agent.service.records.digest import digest
from edge_agent.service.records.schema import CLIENT_TOKENS

ACTIVE_S = 8 * 3600.0

_TIME = "$time"  # key of a stored time


def once(call: Call, transaction: Transaction, run: Operation) -> Answer:
    """Return the first answer to this client token; `run` the call when there is none yet.

    `transaction` is a writing one. A call without ClientToken just runs. Raises Conflict when the
    token came with other parameters before: the service model has no error for this alone.
    """
    token = call.parameters.get("ClientToken")
    if token is None:
        return run(call, transaction)
    _forget_old(transaction, call.now)
    asked = digest(call, without=("ClientToken",))
    answer = _answer_of(call, token, asked, transaction)
    if answer is None:
        answer = run(call, transaction)
        _keep(call, token, asked, answer, transaction)
    return answer


def _forget_old(transaction: Transaction, now: float) -> None:
    old = CLIENT_TOKENS.c.created <= now - ACTIVE_S
    transaction.connection.execute(delete(CLIENT_TOKENS).where(old))


def _answer_of(call: Call, token: str, asked: bytes, transaction: Transaction) -> Optional[Answer]:
    query = select(CLIENT_TOKENS.c.digest, CLIENT_TOKENS.c.answer).where(
        CLIENT_TOKENS.c.account == call.account,
        CLIENT_TOKENS.c.operation == f"{call.service}:{call.operation}",
        CLIENT_TOKENS.c.token == token,
    )
    kept = transaction.connection.execute(query).first()
    if kept is None:
        return None
    if kept.digest != asked:
        raise Conflict(
            f"The client token {token} was used with other parameters in the last 8 hours. "
            "Use another token for another call.",
            "PROJECT",
            str(call.parameters.get("ProjectName", "")),
        )
    answer: Answer = json.loads(kept.answer, object_hook=_restored)
    return answer


def _keep(call: Call, token: str, asked: bytes, answer: Answer, transaction: Transaction) -> None:
    transaction.connection.execute(
        insert(CLIENT_TOKENS).values(
            account=call.account,
            operation=f"{call.service}:{call.operation}",
            token=token,
            digest=asked,
            answer=json.dumps(answer, default=_stored),
            created=call.now,
        )
    )


def _stored(value: object) -> Dict[str, str]:
    if isinstance(value, datetime):
        return {_TIME: value.isoformat()}
    raise TypeError(f"{type(value).__name__} in the answer to a call with a client token")


def _restored(value: Dict[str, object]) -> object:
    if list(value) == [_TIME]:
        return datetime.fromisoformat(str(value[_TIME]))
    return value
