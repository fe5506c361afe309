"""What changes the entries of datasets, in threads: manifests to import, updates, deletions.

The dataset's status says what is under way: while it is being created nothing of it is seen, and an
update is one transaction. What an earlier run of the service has left is found by the status. None
of it is work for child processes: it would wait there for trainings that take hours.
"""

from __future__ import annotations

import logging
import threading
import time
from functools import partial
from io import BytesIO
from queue import SimpleQueue
from typing import Any, Callable, Dict, Iterable, Iterator, List, Optional, Sequence

from sqlalchemy import Row, delete, select, update

from edge_agent.errors import EdgeAgentError, InvalidRequest
from edge_agent.service.buckets.base import Buckets
from edge_agent.service.buckets.lines import lines_of
from edge_agent.service.buckets.names import S3Name
from edge_agent.service.faults import RecordsFailed, ServiceFault, Throttled
from edge_agent.service.records.database import Records, Transaction
from edge_agent.service.records.dataset_entries import (
    AT_A_TIME,
    DatasetEntry,
    any_source_ref,
    batches,
    image_stats,
    put_entries,
)
from edge_agent.service.records.repeating import until_recorded
from edge_agent.service.records.schema import DATASETS, ENTRIES
from edge_agent.service.settings import QuotaSettings
from edge_agent.service.work.manifest_lines import ManifestLines

THREADS = 2
ENDS_WITHIN_S = 10.0  # when the service stops, else the process ends in the midst
LINES_OF_AN_IMAGE = 10  # in a manifest at most, on average: blank ones, labels given again
MOST_HELD_BYTES = 256 * 2**20  # of updates that wait
AGAIN_AFTER_S = 5  # a call that finds as much
MOST_MANIFEST_BYTES = 1024**3  # 1 GB, as the original took
CREATING, CREATED, NOT_CREATED = "CREATE_IN_PROGRESS", "CREATE_COMPLETE", "CREATE_FAILED"
UPDATING, UPDATED = "UPDATE_IN_PROGRESS", "UPDATE_COMPLETE"
NOT_UPDATED = "UPDATE_FAILED_ROLLBACK_COMPLETE"
DELETING = "DELETE_IN_PROGRESS"
READY = (CREATED, UPDATED, NOT_UPDATED)  # to be changed, or to train with
FAILED: Dict[str, str] = {CREATING: NOT_CREATED, UPDATING: NOT_UPDATED}
MESSAGES: Dict[str, str] = {
    CREATING: "The dataset is being created.",
    CREATED: "The dataset was created.",
    UPDATING: "The dataset is being updated.",
    UPDATED: "The dataset was updated.",
    DELETING: "The dataset is being deleted.",
}
INTERRUPTED: Dict[str, str] = {
    CREATING: "The service stopped during the import. Delete the dataset, then create it again.",
    UPDATING: "The service stopped during the update, which changed nothing. Update it again.",
}
FAULT = "It failed by a fault of the service, which its log describes."

log = logging.getLogger(__name__)


class _Stopped(Exception):
    """The dataset isn't there any more, or the service stops."""


class DatasetImports:
    """Does it in the background. `start` before use; `close` waits for what is under way."""

    def __init__(self, *, records: Records, buckets: Buckets, quotas: QuotaSettings) -> None:
        self._records, self._buckets = records, buckets
        self._most = {"train": quotas.train_images, "test": quotas.test_images}
        self._queue: SimpleQueue[Optional[Callable[[], None]]] = SimpleQueue()
        self._changes: Dict[int, bytes] = {}  # that wait, by the dataset's id
        self._threads: List[threading.Thread] = []
        self._closing = threading.Event()

    def start(self) -> None:
        """Conclude what an earlier run of the service has left, then begin."""
        for status, message in INTERRUPTED.items():
            for dataset_id in self._in_status(status):
                self._fail(dataset_id, status, message)
        for dataset_id in self._in_status(DELETING):
            self._delete(dataset_id)
        for _ in range(THREADS):
            thread = threading.Thread(target=self._work, name="dataset", daemon=True)
            thread.start()
            self._threads.append(thread)

    def close(self) -> None:
        """Stop soon; `start` concludes what is left."""
        self._closing.set()
        for _ in self._threads:
            self._queue.put(None)
        end = time.monotonic() + ENDS_WITHIN_S
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))

    def create(
        self, dataset_id: int, account: str, manifest: S3Name, transaction: Transaction
    ) -> None:
        """Import a manifest into a dataset that is CREATE_IN_PROGRESS, after the commit."""
        job = partial(self._create, dataset_id, account, manifest)
        step = partial(self._run, dataset_id, CREATING, job)
        transaction.after_commit(lambda: self._queue.put(step))

    def update(self, dataset_id: int, changes: bytes, transaction: Transaction) -> None:
        """Put lines into a dataset that is UPDATE_IN_PROGRESS, after the commit.

        Raises Throttled while those of other datasets, which wait, fill the memory for them.
        """
        held = sum(map(len, list(self._changes.values())))
        if held + len(changes) > MOST_HELD_BYTES:
            raise Throttled("Too many updates of datasets wait. Call again later.", AGAIN_AFTER_S)
        step = partial(self._run, dataset_id, UPDATING, partial(self._update, dataset_id))

        def begin() -> None:
            self._changes[dataset_id] = changes
            self._queue.put(step)

        transaction.after_commit(begin)

    def delete(self, dataset_id: int, transaction: Transaction) -> None:
        """Delete a dataset that is DELETE_IN_PROGRESS, after the commit, and before the answer.

        So a caller can delete the project, or create the dataset again, in the next call.
        """
        transaction.after_commit(lambda: self._delete_soon(dataset_id))

    def _delete_soon(self, dataset_id: int) -> None:
        """Delete a dataset; where the records can't be written, once they can be."""
        step = partial(self._delete, dataset_id)
        try:
            step()
        except RecordsFailed:
            what = f"The deletion of dataset {dataset_id}"
            self._queue.put(partial(until_recorded, step, what, self._closing))

    def _work(self) -> None:
        while True:
            step = self._queue.get()
            if step is None or self._closing.is_set():
                return
            try:
                step()
            except Exception:
                log.exception("A dataset stays as it is until the next start")

    def _run(self, dataset_id: int, status: str, job: Callable[[], None]) -> None:
        message = _failure(job)
        if message:
            fail = partial(self._fail, dataset_id, status, message)
            until_recorded(fail, f"The failure of dataset {dataset_id}", self._closing)

    def _create(self, dataset_id: int, account: str, manifest: S3Name) -> None:
        raw_lines = self._buckets.lines(account, *manifest, MOST_MANIFEST_BYTES)
        with self._records.read() as transaction:
            dataset = self._dataset(dataset_id, CREATING, transaction)
        reader = ManifestLines(time.time(), self._most_lines(dataset))
        lines = 0
        for batch in batches(reader.entries(self._until_closing(raw_lines))):
            lines += len(batch)
            with self._records.write() as transaction:
                dataset = self._dataset(dataset_id, CREATING, transaction)
                put_entries(transaction, dataset_id, batch)
                self._within_quota(dataset, lines, transaction)
        with self._records.write() as transaction:
            self._dataset(dataset_id, CREATING, transaction)
            message = f"{MESSAGES[CREATED]}{reader.left_out}"
            set_status(dataset_id, CREATED, message, transaction)

    def _update(self, dataset_id: int) -> None:
        changes = BytesIO(self._changes.pop(dataset_id))
        with self._records.read() as transaction:
            dataset = self._dataset(dataset_id, UPDATING, transaction)
            known = any_source_ref(transaction, dataset_id)
        bucket = S3Name.of_uri(known).bucket if known else None
        reader = ManifestLines(time.time(), self._most_lines(dataset), bucket)
        entries: Dict[str, DatasetEntry] = {}
        for entry in reader.entries(self._until_closing(lines_of(changes))):
            entries[entry.source_ref] = entry
            self._require_few(dataset, len(entries))
        with self._records.write() as transaction:
            self._dataset(dataset_id, UPDATING, transaction)
            put_entries(transaction, dataset_id, entries.values())
            self._within_quota(dataset, None, transaction)
            message = f"{MESSAGES[UPDATED]}{reader.left_out}"
            set_status(dataset_id, UPDATED, message, transaction)

    def _most_lines(self, dataset: Row[Any]) -> int:
        return LINES_OF_AN_IMAGE * max(self._most[dataset.type], AT_A_TIME)

    def _until_closing(self, lines: Iterable[bytes]) -> Iterator[bytes]:
        for line in lines:
            if self._closing.is_set():
                raise _Stopped
            yield line

    def _delete(self, dataset_id: int) -> None:
        try:
            self._delete_entries(dataset_id, DELETING)
            with self._records.write() as transaction:
                self._dataset(dataset_id, DELETING, transaction)
                transaction.connection.execute(delete(DATASETS).where(DATASETS.c.id == dataset_id))
        except _Stopped:
            log.info("Dataset %d was deleted already, or the service stops", dataset_id)

    def _delete_entries(self, dataset_id: int, status: str) -> None:
        """Delete all entries, some at a time: others can write between."""
        some = select(ENTRIES.c.id).where(ENTRIES.c.dataset_id == dataset_id).limit(AT_A_TIME)
        there = True
        while there:
            with self._records.write() as transaction:
                self._dataset(dataset_id, status, transaction)
                done = transaction.connection.execute(delete(ENTRIES).where(ENTRIES.c.id.in_(some)))
                there = done.rowcount == AT_A_TIME

    def _dataset(self, dataset_id: int, status: str, transaction: Transaction) -> Row[Any]:
        """Return the row. Raises _Stopped when there is nothing more to do for it."""
        query = select(DATASETS).where(DATASETS.c.id == dataset_id, DATASETS.c.status == status)
        dataset = transaction.connection.execute(query).one_or_none()
        if dataset is None or self._closing.is_set():
            raise _Stopped
        return dataset

    def _within_quota(
        self, dataset: Row[Any], at_most: Optional[int], transaction: Transaction
    ) -> None:
        """Raise InvalidRequest when it has too many images.

        `at_most`: it has that many, or less; None: that isn't known.
        """
        if at_most is None or at_most > self._most[dataset.type]:
            self._require_few(dataset, image_stats(transaction, dataset.id).total)

    def _require_few(self, dataset: Row[Any], images: int) -> None:
        most = self._most[dataset.type]
        if images > most:
            raise InvalidRequest(
                f"A {dataset.type} dataset holds at most {most} images, with these it would be "
                f"more. Take fewer, or raise the service's setting quotas.{dataset.type}_images."
            )

    def _in_status(self, status: str) -> Sequence[int]:
        query = select(DATASETS.c.id).where(DATASETS.c.status == status)
        with self._records.read() as transaction:
            return transaction.connection.scalars(query).all()

    def _fail(self, dataset_id: int, status: str, message: str) -> None:
        """Record why `status` came to nothing; of a creation no entry stays."""
        if status == CREATING:
            self._delete_entries(dataset_id, CREATING)
        log.warning("Dataset %d, %s: %s", dataset_id, FAILED[status], message)
        with self._records.write() as transaction:
            set_status(dataset_id, FAILED[status], message, transaction)


def _failure(job: Callable[[], None]) -> str:
    """Do a job; return why it failed, for the caller of the API."""
    try:
        job()
    except _Stopped:
        pass
    except (EdgeAgentError, ServiceFault) as error:
        return str(error)
    except OSError as error:
        return f"The manifest can't be read: {error.strerror}. Correct that, then try again."
    except Exception:
        log.exception("A dataset can't be changed")
        return FAULT
    return ""


def set_status(dataset_id: int, status: str, message: str, transaction: Transaction) -> None:
    """Give a dataset a status, as of now."""
    values = {"status": status, "message": message, "updated": time.time()}
    transaction.connection.execute(
        update(DATASETS).where(DATASETS.c.id == dataset_id).values(**values)
    )
