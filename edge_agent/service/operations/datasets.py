"""CreateDataset, DescribeDataset, ListDatasetEntries, UpdateDatasetEntries, DeleteDataset.

A dataset that is being created, or couldn't be, has no entries; one that is being updated has the
old ones until all of the new ones are there.
"""

from __future__ import annotations

import logging
from typing import Any, List, Optional

from sqlalchemy import ColumnElement, Row, func, insert, select

from edge_agent.service.buckets.base import Buckets
from edge_agent.service.buckets.names import S3Name
from edge_agent.service.call import Answer, Call
from edge_agent.service.faults import Conflict
from edge_agent.service.operations.metadata import dataset_metadata, moment
from edge_agent.service.records.database import Transaction
from edge_agent.service.records.dataset_entries import ImageStats, image_stats
from edge_agent.service.records.lookups import find_dataset, find_project
from edge_agent.service.records.pages import page_of
from edge_agent.service.records.schema import DATASETS, ENTRIES, MODELS
from edge_agent.service.work.dataset_imports import (
    CREATED,
    CREATING,
    DELETING,
    MESSAGES,
    NOT_CREATED,
    READY,
    UPDATING,
    DatasetImports,
    set_status,
)

TRAINING = "TRAINING"  # status of a model

log = logging.getLogger(__name__)


class Datasets:
    """The datasets of projects: one for training, perhaps one for tests."""

    def __init__(self, *, buckets: Buckets, imports: DatasetImports) -> None:
        self._buckets, self._imports = buckets, imports

    def create_dataset(self, call: Call, transaction: Transaction) -> Answer:
        """Create a dataset: empty, at once, or from a manifest, in the background."""
        project = find_project(transaction, call.account, call.parameters["ProjectName"])
        dataset_type = call.parameters["DatasetType"]
        _require_none(transaction, project, dataset_type)
        manifest = self._manifest(call)
        status = CREATED if manifest is None else CREATING
        new = insert(DATASETS).values(
            project_id=project.id,
            type=dataset_type,
            created=call.now,
            updated=call.now,
            status=status,
            message=MESSAGES[status],
        )
        row = transaction.connection.execute(new.returning(DATASETS)).one()
        if manifest is not None:
            self._imports.create(row.id, call.account, manifest, transaction)
        return {"DatasetMetadata": dataset_metadata(row)}

    def describe_dataset(self, call: Call, transaction: Transaction) -> Answer:
        """Answer a dataset's status, and how many images it has."""
        dataset = _find(call, transaction)
        stats = ImageStats(0, 0, 0)
        if _has_entries(dataset):
            stats = image_stats(transaction, dataset.id)
        return {
            "DatasetDescription": {
                "ProjectName": call.parameters["ProjectName"],
                **dataset_metadata(dataset),
                "LastUpdatedTimestamp": moment(dataset.updated),
                "ImageStats": {
                    "Total": stats.total,
                    "Labeled": stats.normal + stats.anomaly,
                    "Normal": stats.normal,
                    "Anomaly": stats.anomaly,
                },
            }
        }

    def list_dataset_entries(self, call: Call, transaction: Transaction) -> Answer:
        """Answer a page of the dataset's lines that all filters let through."""
        dataset = _find(call, transaction)
        query = select(ENTRIES.c.id, ENTRIES.c.line).where(ENTRIES.c.dataset_id == dataset.id)
        if not _has_entries(dataset):
            return {"DatasetEntries": []}
        page = page_of(call, transaction, query.where(*_filters(call)), ENTRIES.c.id)
        return {"DatasetEntries": [row.line for row in page.rows], **page.token}

    def update_dataset_entries(self, call: Call, transaction: Transaction) -> Answer:
        """Add lines, or put them in the place of those with the same image; all, or none."""
        dataset = _find(call, transaction)
        _require_ready(call, dataset)
        set_status(dataset.id, UPDATING, MESSAGES[UPDATING], transaction)
        self._imports.update(dataset.id, call.parameters["Changes"], transaction)
        return {"Status": UPDATING}

    def delete_dataset(self, call: Call, transaction: Transaction) -> Answer:
        """Delete a dataset; not while it changes, nor while a model is trained with it."""
        dataset = _find(call, transaction)
        if dataset.status not in (NOT_CREATED, DELETING):
            _require_ready(call, dataset)
        _require_no_training(call, dataset, transaction)
        set_status(dataset.id, DELETING, MESSAGES[DELETING], transaction)
        self._imports.delete(dataset.id, transaction)
        return {}

    def _manifest(self, call: Call) -> Optional[S3Name]:
        source = call.parameters.get("DatasetSource", {})
        place = source.get("GroundTruthManifest", {}).get("S3Object")
        if place is None:
            return None
        if "VersionId" in place:  # AWS's own Python SDK always sends one, that of the model
            log.info("The VersionId of manifest %s isn't used.", place["Key"])
        self._buckets.check(call.account, place["Bucket"])
        manifest = S3Name(place["Bucket"], place["Key"])
        manifest.parts()
        return manifest


def _find(call: Call, transaction: Transaction) -> Row[Any]:
    given = call.parameters
    return find_dataset(transaction, call.account, given["ProjectName"], given["DatasetType"])


def _has_entries(dataset: Row[Any]) -> bool:
    return dataset.status not in (CREATING, NOT_CREATED, DELETING)


def _filters(call: Call) -> List[ColumnElement[bool]]:
    given, is_labeled = call.parameters, ENTRIES.c.label.is_not(None)
    filters: List[ColumnElement[bool]] = []
    if "Labeled" in given:
        filters.append(is_labeled if given["Labeled"] else ENTRIES.c.label.is_(None))
    if "AnomalyClass" in given:
        filters.append(ENTRIES.c.label == given["AnomalyClass"])
    if "BeforeCreationDate" in given:
        filters.append(ENTRIES.c.created < given["BeforeCreationDate"].timestamp())
    if "AfterCreationDate" in given:
        filters.append(ENTRIES.c.created > given["AfterCreationDate"].timestamp())
    if "SourceRefContains" in given:
        filters.append(func.instr(ENTRIES.c.source_ref, given["SourceRefContains"]) > 0)
    return filters


def _require_none(transaction: Transaction, project: Row[Any], dataset_type: str) -> None:
    query = select(DATASETS.c.status).where(
        DATASETS.c.project_id == project.id, DATASETS.c.type == dataset_type
    )
    status = transaction.connection.scalar(query)
    if status is not None:
        raise Conflict(
            f"The project {project.name} has a {dataset_type} dataset already, which is {status}. "
            "Delete it first.",
            "DATASET",
            f"{project.name}/{dataset_type}",
        )


def _require_ready(call: Call, dataset: Row[Any]) -> None:
    if dataset.status not in READY:
        project = call.parameters["ProjectName"]
        failed = dataset.status == NOT_CREATED
        advice = "Delete it, then create it again." if failed else "Wait for the end of that."
        raise Conflict(
            f"The {dataset.type} dataset of the project {project} is {dataset.status}. {advice}",
            "DATASET",
            f"{project}/{dataset.type}",
        )


def _require_no_training(call: Call, dataset: Row[Any], transaction: Transaction) -> None:
    training = select(MODELS.c.version).where(
        MODELS.c.project_id == dataset.project_id, MODELS.c.status == TRAINING
    )
    version = transaction.connection.scalar(training)
    if version is not None:
        raise Conflict(
            f"Model version {version} is being trained with this dataset. Wait for the end of the "
            "training.",
            "MODEL",
            f"{call.parameters['ProjectName']}/{version}",
        )
