"""Tags of resources, by ARN."""

from __future__ import annotations

from typing import Dict, List, Mapping, Optional, Sequence

from sqlalchemy import delete, func, select
from sqlalchemy.dialects.sqlite import insert

from edge_agent.service.call import Call
from edge_agent.service.faults import QuotaExceeded, ValidationFailed
from edge_agent.service.records.database import Transaction
from edge_agent.service.records.schema import TAGS

MOST = 200  # of a resource, as in the service model
RESERVED = "aws:"


def put_tags(
    call: Call, transaction: Transaction, arn: str, tags: Sequence[Mapping[str, str]]
) -> None:
    """Add tags, each with Key and Value, to a model; a key that is there gets the new value.

    Raises ValidationFailed for a key that comes twice or is reserved, QuotaExceeded for too many.
    """
    values = [{"arn": arn, "key": tag["Key"], "value": tag["Value"]} for tag in tags]
    _check([tag["Key"] for tag in tags])
    if values:
        put = insert(TAGS)
        put = put.on_conflict_do_update(("arn", "key"), set_={"value": put.excluded.value})
        transaction.connection.execute(put, values)
    number = select(func.count()).select_from(TAGS).where(TAGS.c.arn == arn)
    if transaction.connection.execute(number).scalar_one() > MOST:
        sentence = f"A resource has at most {MOST} tags. Remove tags of {arn} first."
        raise QuotaExceeded(sentence, "tags", call.service, "MODEL", arn)


def tags_of(transaction: Transaction, arn: str) -> List[Dict[str, str]]:
    """Return the tags in the order of their keys."""
    query = select(TAGS.c.key, TAGS.c.value).where(TAGS.c.arn == arn).order_by(TAGS.c.key)
    return [{"Key": row.key, "Value": row.value} for row in transaction.connection.execute(query)]


def remove_tags(transaction: Transaction, arn: str, keys: Optional[Sequence[str]] = None) -> None:
    """Remove tags by key, those that aren't there too; without `keys`: all of the resource's."""
    query = delete(TAGS).where(TAGS.c.arn == arn)
    if keys is not None:
        query = query.where(TAGS.c.key.in_(keys))
    transaction.connection.execute(query)


def _check(keys: Sequence[str]) -> None:
    for key in keys:
        if key.lower().startswith(RESERVED):
            raise ValidationFailed(f"The tag key {key} begins with {RESERVED}, which is reserved.")
        if keys.count(key) > 1:
            raise ValidationFailed(f"The tag key {key} comes twice. Give each key once.")
