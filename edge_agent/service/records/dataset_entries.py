"""The entries of datasets, each dataset's in the order in which they were added."""

from __future__ import annotations

from itertools import islice
from typing import Any, Iterable, Iterator, List, NamedTuple, Optional

from sqlalchemy import Row, func, select
from sqlalchemy.dialects.sqlite import insert

from edge_agent.service.records.database import Transaction
from edge_agent.service.records.schema import ENTRIES

AT_A_TIME = 1000  # rows in memory


class DatasetEntry(NamedTuple):
    """One line of a manifest: its image, its label (normal, anomaly or None), when that was given.

    `created`: seconds since 1970.
    """

    source_ref: str
    line: str
    label: Optional[str]
    created: float


class ImageStats(NamedTuple):
    """How many images a dataset has."""

    total: int
    normal: int
    anomaly: int


def put_entries(transaction: Transaction, dataset_id: int, entries: Iterable[DatasetEntry]) -> None:
    """Add entries; one whose source-ref is there already takes the old one's place."""
    statement = insert(ENTRIES)
    new = statement.excluded
    statement = statement.on_conflict_do_update(
        index_elements=[ENTRIES.c.dataset_id, ENTRIES.c.source_ref],
        set_={"line": new.line, "label": new.label, "created": new.created},
    )
    for batch in batches(entries):
        rows = [{"dataset_id": dataset_id, **entry._asdict()} for entry in batch]
        transaction.connection.execute(statement, rows)


def entries_of(transaction: Transaction, dataset_id: int) -> Iterator[Row[Any]]:
    """Yield all entries; rows have the columns of the table ENTRIES. Some are in memory at once."""
    query = select(ENTRIES).where(ENTRIES.c.dataset_id == dataset_id).order_by(ENTRIES.c.id)
    options = {"yield_per": AT_A_TIME}
    yield from transaction.connection.execute(query, execution_options=options)


def any_source_ref(transaction: Transaction, dataset_id: int) -> Optional[str]:
    """Return the image of one entry; None when there is no entry."""
    query = select(ENTRIES.c.source_ref).where(ENTRIES.c.dataset_id == dataset_id).limit(1)
    return transaction.connection.scalar(query)


def image_stats(transaction: Transaction, dataset_id: int) -> ImageStats:
    """Count the images, and those that are labelled."""
    query = (
        select(ENTRIES.c.label, func.count().label("images"))
        .where(ENTRIES.c.dataset_id == dataset_id)
        .group_by(ENTRIES.c.label)
    )
    counts = {row.label: row.images for row in transaction.connection.execute(query)}
    return ImageStats(sum(counts.values()), counts.get("normal", 0), counts.get("anomaly", 0))


def batches(entries: Iterable[DatasetEntry]) -> Iterator[List[DatasetEntry]]:
    """Yield entries some at a time, as many as one transaction writes in little time."""
    remaining = iter(entries)
    while True:
        batch = list(islice(remaining, AT_A_TIME))
        if not batch:
            return
        yield batch
