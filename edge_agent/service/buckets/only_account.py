"""Whether there is one account only, whose buckets are then all that no setting gives away."""

from __future__ import annotations

import json
import logging
from typing import Callable, FrozenSet, Tuple

from sqlalchemy import select, union

from edge_agent.service.records.database import Records
from edge_agent.service.records.schema import ACCESS_KEYS, PROJECTS

log = logging.getLogger(__name__)


class OnlyAccount:
    """Knows the accounts with an access key or a project; may be used by any thread."""

    def __init__(self, records: Callable[[], Records]) -> None:
        """Begin. `records`: returns the same ones each time; called when they are needed first."""
        self._records = records
        self._known: Tuple[int, FrozenSet[str]] = (-1, frozenset())  # after so many commits

    def __call__(self, account: str) -> bool:
        """Return whether no other account is there. Raises RecordsFailed."""
        return self.accounts() <= {account}

    def accounts(self) -> FrozenSet[str]:
        """Return all accounts; the log says once when they are several. Raises RecordsFailed."""
        records = self._records()
        commits, known = records.commits(), self._known
        if known[0] != commits:
            accounts = accounts_of(records)
            if len(accounts) > 1 >= len(known[1]):
                log.warning("%s", closed_buckets(accounts))
            known = self._known = (commits, accounts)
        return known[1]


def accounts_of(records: Records) -> FrozenSet[str]:
    """Return the accounts with an access key or a project. Raises RecordsFailed."""
    query = union(select(ACCESS_KEYS.c.account), select(PROJECTS.c.account))
    with records.read() as transaction:
        return frozenset(transaction.connection.scalars(query))


def closed_buckets(accounts: FrozenSet[str]) -> str:
    """Say what several accounts mean for the buckets, and what to do."""
    every = sorted(accounts)
    example = json.dumps({"buckets": {"accounts": {"BUCKET": every[:1]}}})
    return (
        f"There are {len(every)} accounts: {', '.join(every)}. A bucket is closed to each account "
        "that the service's setting buckets.accounts doesn't name for it. In the file of --config, "
        f"name the accounts of each bucket: {example}"
    )
