"""A signature is used once: who repeats a recorded request changes nothing."""

from __future__ import annotations

from edge_agent.service.auth.authenticator import Principal
from edge_agent.service.records.database import Transaction


def refuse_replay(transaction: Transaction, principal: Principal, now: float) -> None:
    """Record the signature of a call that changes something and has no client token.

    To be called in the call's own writing transaction, before its operation: when the call fails,
    its signature isn't used up. Raises WrongSignature when it was used before.
    """
