"""Access keys: who may call the service, each for one account."""

from __future__ import annotations

import base64
import secrets
from dataclasses import dataclass, field
from typing import Dict, List, Optional, Tuple

from sqlalchemy import ColumnElement, delete, insert, select

from edge_agent.service.records.database import Records
from edge_agent.service.records.schema import ACCESS_KEYS

PREFIX = "AKIA"
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"


@dataclass(frozen=True)
class AccessKey:
    """A key; the secret isn't shown by its repr."""

    id: str
    account: str
    secret: str = field(repr=False)
    created: float  # seconds since 1970


class AccessKeys:
    """The keys in the records; may be used by any thread, and by another process meanwhile."""

    def __init__(self, records: Records) -> None:
        self._records = records
        self._found: Tuple[int, Dict[str, AccessKey]] = (-1, {})  # after so many commits

    def add(self, account: str, now: float) -> AccessKey:
        """Make a key for an account."""
        name = PREFIX + "".join(secrets.choice(LETTERS) for _ in range(16))
        secret = base64.b64encode(secrets.token_bytes(30)).decode()
        key = AccessKey(name, account, secret, now)
        with self._records.write() as transaction:
            transaction.connection.execute(
                insert(ACCESS_KEYS).values(id=name, account=account, secret=secret, created=now)
            )
        return key

    def find(self, key_id: str) -> Optional[AccessKey]:
        """Return a key, None when there is none. Those found are kept until something changes."""
        commits, kept = self._records.commits(), self._found
        if kept[0] != commits:
            kept = self._found = (commits, {})
        if key_id not in kept[1]:
            kept[1].update({key.id: key for key in self._select(ACCESS_KEYS.c.id == key_id)})
        return kept[1].get(key_id)

    def all(self, account: Optional[str] = None) -> List[AccessKey]:
        """Return the keys of an account, or of all, oldest first."""
        return self._select(*([] if account is None else [ACCESS_KEYS.c.account == account]))

    def remove(self, key_id: str) -> bool:
        """Remove a key; return whether there was one."""
        with self._records.write() as transaction:
            result = transaction.connection.execute(
                delete(ACCESS_KEYS).where(ACCESS_KEYS.c.id == key_id)
            )
        return result.rowcount > 0

    def _select(self, *conditions: ColumnElement[bool]) -> List[AccessKey]:
        columns = (ACCESS_KEYS.c.id, ACCESS_KEYS.c.account, ACCESS_KEYS.c.secret)
        statement = select(*columns, ACCESS_KEYS.c.created).where(*conditions)
        with self._records.read() as transaction:
            rows = transaction.connection.execute(statement.order_by(ACCESS_KEYS.c.created))
            return [AccessKey(row.id, row.account, row.secret, row.created) for row in rows]
