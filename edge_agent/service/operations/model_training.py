"""CreateModel, DeleteModel."""

from __future__ import annotations

import logging
import shutil
import threading
from pathlib import Path
from typing import Any, Dict, Sequence

from sqlalchemy import Row, delete, func, insert, select, update

from edge_agent.service.buckets.base import Buckets
from edge_agent.service.buckets.names import S3Name
from edge_agent.service.call import Answer, Call
from edge_agent.service.faults import Conflict
from edge_agent.service.operations.metadata import model_metadata
from edge_agent.service.records.database import Records, Transaction
from edge_agent.service.records.dataset_entries import last_entry
from edge_agent.service.records.lookups import find_model, find_project
from edge_agent.service.records.quotas import within_quota
from edge_agent.service.records.schema import DATASETS, MODELS, PACKAGING_JOBS, PROJECTS
from edge_agent.service.records.tags import put_tags, remove_tags
from edge_agent.service.settings import ServiceSettings
from edge_agent.service.work.base import Work
from edge_agent.service.work.dataset_imports import READY
from edge_agent.service.work.evaluation_files import MANIFEST, key
from edge_agent.service.work.training import FAILED, TRAINED, TRAINING, package_folder

KIND = "training"
DELETING = "DELETING"
DELETABLE = (TRAINED, FAILED, "HOSTING_FAILED", DELETING)
PACKAGING = ("CREATED", "RUNNING")  # of packaging jobs that read the model's package
MESSAGES = {
    TRAINING: "The training waits for its turn.",
    DELETING: "The model is being deleted.",
}

log = logging.getLogger(__name__)


class ModelTraining:
    """How models come to be, and go."""

    def __init__(
        self,
        *,
        root: Path,
        settings: ServiceSettings,
        records: Records,
        buckets: Buckets,
        work: Work,
    ) -> None:
        self._root, self._settings, self._records = root, settings, records
        self._buckets, self._work = buckets, work
        self._deletion = threading.Lock()  # one at a time

    def start(self) -> None:
        """Delete the models that were being deleted when the service was stopped."""
        with self._records.read() as transaction:
            query = select(MODELS.c.id).where(MODELS.c.status == DELETING)
            left: Sequence[int] = transaction.connection.scalars(query).all()
        for model_id in left:
            self._delete(model_id)

    def create_model(self, call: Call, transaction: Transaction) -> Answer:
        """Train the next version on what the project's datasets hold now."""
        project = find_project(transaction, call.account, call.parameters["ProjectName"])
        datasets = _datasets(project, transaction)
        self._check_room(call, project, transaction)
        self._check_output(call, project)
        model = _insert(call, project, transaction)
        put_tags(call, transaction, model.arn, call.parameters.get("Tags", []))
        parameters = {
            "account": call.account,
            "project": project.name,
            "version": str(model.version),
            "arn": model.arn,
            "model_id": model.id,
            "bucket": model.output_bucket,
            "prefix": model.output_prefix,
            "datasets": {
                kind: {"id": dataset.id, "last": last_entry(transaction, dataset.id)}
                for kind, dataset in datasets.items()
            },
        }
        self._work.submit(KIND, parameters, transaction)
        return {"ModelMetadata": model_metadata(model)}

    def delete_model(self, call: Call, transaction: Transaction) -> Answer:
        """Delete a version that nobody uses; its number isn't given again."""
        name, version = call.parameters["ProjectName"], call.parameters["ModelVersion"]
        model = find_model(transaction, call.account, name, version)
        _check_unused(model, transaction)
        transaction.connection.execute(
            update(MODELS)
            .where(MODELS.c.id == model.id)
            .values(status=DELETING, message=MESSAGES[DELETING])
        )
        transaction.after_commit(lambda: self._delete(model.id))
        return {"ModelArn": model.arn}

    def _check_room(self, call: Call, project: Row[Any], transaction: Transaction) -> None:
        """Find that the project may have another model, and the account another training."""
        quotas = self._settings.quotas
        of_project = MODELS.c.project_id == project.id
        training = MODELS.c.status == TRAINING
        models = _count(transaction, of_project) + 1
        within_quota(call, "models", models, quotas.models, "PROJECT", project.name)
        trainings = _count(transaction, PROJECTS.c.account == call.account, training) + 1
        within_quota(call, "trainings", trainings, quotas.trainings)

    def _check_output(self, call: Call, project: Row[Any]) -> None:
        """Find that the evaluation files can be written where the call wants them."""
        location = call.parameters["OutputConfig"]["S3Location"]
        version = str(project.last_version + 1)
        prefix = location.get("Prefix", "")
        S3Name(location["Bucket"], key(MANIFEST, prefix, project.name, version)).parts()
        self._buckets.check(call.account, location["Bucket"])

    def _delete(self, model_id: int) -> None:
        """Remove a model that is DELETING: its package first, so that none is left behind.

        What fails here is tried again at the next start, and whenever somebody asks again.
        """
        query = (
            select(MODELS, PROJECTS.c.account, PROJECTS.c.name)
            .join(PROJECTS)
            .where(MODELS.c.id == model_id, MODELS.c.status == DELETING)
        )
        with self._deletion:
            with self._records.read() as transaction:
                model = transaction.connection.execute(query).one_or_none()
            if model is None:
                return  # somebody else has asked for it as well
            folder = package_folder(self._root, model.account, model.name, str(model.version))
            try:
                shutil.rmtree(folder)
            except FileNotFoundError:
                pass  # its training failed
            except OSError as error:
                log.warning("%s can't be removed: %s. Correct that.", folder, error.strerror)
                self._not_deleted(model_id, error)
                return
            with self._records.write() as transaction:
                remove_tags(transaction, model.arn)
                transaction.connection.execute(delete(MODELS).where(MODELS.c.id == model_id))

    def _not_deleted(self, model_id: int, error: OSError) -> None:
        message = (
            f"The model's files can't be removed: {error.strerror}. Correct that on the machine "
            "of the service, then delete the model again."
        )
        with self._records.write() as transaction:
            transaction.connection.execute(
                update(MODELS).where(MODELS.c.id == model_id).values(message=message)
            )


def _datasets(project: Row[Any], transaction: Transaction) -> Dict[str, Row[Any]]:
    """Return the project's datasets by type. Raises Conflict when they can't be trained with."""
    query = select(DATASETS).where(DATASETS.c.project_id == project.id)
    found = {row.type: row for row in transaction.connection.execute(query)}
    if "train" not in found:
        raise Conflict(
            f"The project {project.name} has no train dataset. Create it first.",
            "PROJECT",
            project.name,
        )
    for dataset in found.values():
        if dataset.status not in READY:
            raise Conflict(
                f"The {dataset.type} dataset of the project {project.name} is {dataset.status}. "
                "Wait until it is complete; one whose creation failed must be deleted.",
                "DATASET",
                f"{project.name}/{dataset.type}",
            )
    return found


def _insert(call: Call, project: Row[Any], transaction: Transaction) -> Row[Any]:
    """Give the project a model, TRAINING, of the next version."""
    version = project.last_version + 1
    location = call.parameters["OutputConfig"]["S3Location"]
    values = {
        "project_id": project.id,
        "version": version,
        "arn": call.arn(f"model/{project.name}/{version}"),
        "created": call.now,
        "description": call.parameters.get("Description"),
        "status": TRAINING,
        "message": MESSAGES[TRAINING],
        "output_bucket": location["Bucket"],
        "output_prefix": location.get("Prefix", ""),
        "kms_key_id": call.parameters.get("KmsKeyId"),
    }
    transaction.connection.execute(
        update(PROJECTS).where(PROJECTS.c.id == project.id).values(last_version=version)
    )
    transaction.connection.execute(insert(MODELS).values(**values))
    return find_model(transaction, call.account, project.name, str(version))


def _check_unused(model: Row[Any], transaction: Transaction) -> None:
    """Raise Conflict while the model is trained, hosted or packaged."""
    if model.status not in DELETABLE:
        raise Conflict(
            f"The model is {model.status} and can't be deleted. Wait until it is trained, or stop "
            "it first.",
            "MODEL",
            model.arn,
        )
    packaged = select(func.count()).where(
        PACKAGING_JOBS.c.project_id == model.project_id,
        PACKAGING_JOBS.c.model_version == str(model.version),
        PACKAGING_JOBS.c.status.in_(PACKAGING),
    )
    if transaction.connection.scalar(packaged):
        raise Conflict(
            "The model is being packaged and can't be deleted. Wait until that is done.",
            "MODEL",
            model.arn,
        )


def _count(transaction: Transaction, *conditions: Any) -> int:
    query = select(func.count()).select_from(MODELS).join(PROJECTS).where(*conditions)
    return int(transaction.connection.scalar(query) or 0)
