"""Whether there is one account only, whose buckets are then all that no setting gives away."""

from __future__ import annotations

from typing import Callable, FrozenSet, Tuple

from sqlalchemy import select, union

from edge_agent.service.records.database import Records
from edge_agent.service.records.schema import ACCESS_KEYS, PROJECTS


class OnlyAccount:
    """Knows the accounts with an access key or a project; may be used by any thread."""

    def __init__(self, records: Callable[[], Records]) -> None:
        """Begin. `records`: returns the same ones each time; called when they are needed first."""
        self._records = records
        self._known: Tuple[int, FrozenSet[str]] = (-1, frozenset())  # after so many commits

    def __call__(self, account: str) -> bool:
        """Return whether no other account is there. Raises RecordsFailed."""
        records = self._records()
        commits, known = records.commits(), self._known
        if known[0] != commits:
            query = union(select(ACCESS_KEYS.c.account), select(PROJECTS.c.account))
            with records.read() as transaction:
                accounts = frozenset(transaction.connection.scalars(query))
            known = self._known = (commits, accounts)
        return known[1] <= {account}
