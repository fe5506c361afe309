"""The entries of datasets, each dataset's in the order in which they were added.

A training sees a dataset as it was when the training was asked for: entries that were added later
have higher ids, and of those that are replaced meanwhile the old ones are kept for it.
"""

from __future__ import annotations

from itertools import islice
from typing import Any, Iterable, Iterator, List, NamedTuple, Optional, Sequence

from sqlalchemy import Row, and_, case, delete, func, literal, select
from sqlalchemy.dialects.sqlite import insert

from edge_agent.service.records.database import Transaction
from edge_agent.service.records.schema import DATASETS, ENTRIES, MODELS, REPLACED_ENTRIES

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
    models = _trainings(transaction, dataset_id)
    for batch in batches(entries):
        for model_id in models:
            _keep(transaction, dataset_id, model_id, [entry.source_ref for entry in batch])
        rows = [{"dataset_id": dataset_id, **entry._asdict()} for entry in batch]
        transaction.connection.execute(statement, rows)


def last_entry(transaction: Transaction, dataset_id: int) -> int:
    """Return the id of the entry that was added last, 0 where there is none: for `entries_for`."""
    query = select(func.max(ENTRIES.c.id)).where(ENTRIES.c.dataset_id == dataset_id)
    return transaction.connection.scalar(query) or 0


def entries_for(
    transaction: Transaction, dataset_id: int, model_id: int, last: int
) -> Iterator[Row[Any]]:
    """Yield line and label of the entries, as they were when the model's training was asked for.

    `last`: of `last_entry` then. Some are in memory at once.
    """
    old = REPLACED_ENTRIES
    is_replaced = old.c.entry_id.is_not(None)
    query = (
        select(
            case((is_replaced, old.c.line), else_=ENTRIES.c.line).label("line"),
            case((is_replaced, old.c.label), else_=ENTRIES.c.label).label("label"),
        )
        .outerjoin(old, and_(old.c.entry_id == ENTRIES.c.id, old.c.model_id == model_id))
        .where(ENTRIES.c.dataset_id == dataset_id, ENTRIES.c.id <= last)
        .order_by(ENTRIES.c.id)
    )
    options = {"yield_per": AT_A_TIME}
    yield from transaction.connection.execute(query, execution_options=options)


def forget_replaced(transaction: Transaction, model_id: int) -> None:
    """Forget the old entries that were kept for a training that has ended."""
    old = delete(REPLACED_ENTRIES).where(REPLACED_ENTRIES.c.model_id == model_id)
    transaction.connection.execute(old)


def _trainings(transaction: Transaction, dataset_id: int) -> List[int]:
    """Return the models that are trained with the dataset."""
    query = (
        select(MODELS.c.id)
        .join(DATASETS, DATASETS.c.project_id == MODELS.c.project_id)
        .where(DATASETS.c.id == dataset_id, MODELS.c.status == "TRAINING")
    )
    return list(transaction.connection.scalars(query))


def _keep(
    transaction: Transaction, dataset_id: int, model_id: int, source_refs: Sequence[str]
) -> None:
    """Keep entries that are to be replaced, unless older ones are kept already."""
    old = select(literal(model_id), ENTRIES.c.id, ENTRIES.c.line, ENTRIES.c.label).where(
        ENTRIES.c.dataset_id == dataset_id, ENTRIES.c.source_ref.in_(source_refs)
    )
    columns = ["model_id", "entry_id", "line", "label"]
    statement = insert(REPLACED_ENTRIES).from_select(columns, old).prefix_with("OR IGNORE")
    transaction.connection.execute(statement)


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
