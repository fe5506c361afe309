"""Training a model: from what the datasets hold to a package, its figures and evaluation files."""

from __future__ import annotations

import errno
import logging
import shutil
from contextlib import closing, suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List, Mapping, Tuple

from sqlalchemy import update

from edge_agent.errors import EdgeAgentError
from edge_agent.runtime.system.data_files import make_folder
from edge_agent.runtime.system.files import sync_folder
from edge_agent.service.buckets.base import Buckets
from edge_agent.service.buckets.opening import open_buckets
from edge_agent.service.faults import ServiceFault
from edge_agent.service.records.database import Records, Transaction
from edge_agent.service.records.dataset_entries import entries_for, forget_replaced
from edge_agent.service.records.schema import MODELS
from edge_agent.service.root import RECORDS
from edge_agent.service.settings import ServiceSettings
from edge_agent.service.work import evaluation_files
from edge_agent.service.work.anomaly_masks import only_anomaly
from edge_agent.service.work.base import Parameters
from edge_agent.service.work.child import progress
from edge_agent.service.work.evaluation_files import FILES, MANIFEST, RESULT, Evaluated
from edge_agent.service.work.model_test import ModelTest
from edge_agent.service.work.training_images import (
    TEST,
    TRAIN,
    WHOLE,
    Fetched,
    Image,
    check_counts,
    fetch,
    fetch_object,
    left_out_sentence,
    split,
)

if TYPE_CHECKING:
    from edge_agent.manifest import Manifest

TRAINING, TRAINED, FAILED = "TRAINING", "TRAINED", "TRAINING_FAILED"
COMPLETED = "Training completed successfully."  # the original's words
PACKAGE = "package"  # in the folder of the work
MOST_NAME = 128  # characters of a package's name; a project's may have more

log = logging.getLogger(__name__)


class Training:
    """The kind of work that CreateModel submits.

    Parameters: account, project, version, arn and model_id of the model; bucket and prefix of its
    output; `datasets`: by type (train, and perhaps test) the id, and the last entry when the model
    was asked for.
    """

    def __init__(self, root: Path, settings: ServiceSettings) -> None:
        self._root, self._settings = root, settings

    def run(self, parameters: Parameters, folder: Path) -> Mapping[str, Any]:
        """Train and test; package and evaluation files lie in the folder."""
        buckets, account = self._buckets(), parameters["account"]
        for kind in FILES:
            buckets.check_writable(account, parameters["bucket"], _key(kind, parameters))
        train, test, left_out = self._images(parameters, folder, buckets)
        package = _train(train, test, parameters, folder)
        progress(f"Testing with {len(test.images)} images.")
        tested = ModelTest(test, lambda uri: fetch_object(uri, account, buckets, folder / "masks"))
        report = tested.run(folder / PACKAGE, folder)
        ended = datetime.now(timezone.utc)
        model = Evaluated(parameters["arn"], parameters["project"], parameters["version"], ended)
        evaluation_files.write_manifest(folder / MANIFEST, model, tested.found)
        evaluation_files.write_result(
            folder / RESULT, model, _count(package), report, tested.pixels
        )
        return {
            "message": " ".join(filter(None, (COMPLETED, left_out_sentence(left_out)))),
            "performance": {
                "F1Score": report.f1,
                "Recall": report.recall,
                "Precision": report.precision,
            },
            "ended": ended.timestamp(),
        }

    def publish(self, parameters: Parameters, folder: Path) -> None:
        """Write both evaluation files to their bucket, or none."""
        buckets, written = self._buckets(), []
        account, bucket = parameters["account"], parameters["bucket"]
        try:
            for kind in FILES:
                buckets.write(account, bucket, _key(kind, parameters), folder / kind)
                written.append(kind)
        except ServiceFault:
            with suppress(ServiceFault):
                for kind in written:
                    buckets.remove(account, bucket, _key(kind, parameters))
            raise

    def progressed(self, parameters: Parameters, message: str, transaction: Transaction) -> None:
        """Show how far it is in the model's StatusMessage."""
        _update(parameters, transaction, message=message)

    def finished(
        self,
        parameters: Parameters,
        result: Mapping[str, Any],
        folder: Path,
        transaction: Transaction,
    ) -> None:
        """Move the package to the models; the model is TRAINED."""
        _place(folder / PACKAGE, self._target(parameters))
        forget_replaced(transaction, parameters["model_id"])
        _update(
            parameters,
            transaction,
            status=TRAINED,
            message=result["message"],
            performance=result["performance"],
            evaluation_manifest=_output(MANIFEST, parameters),
            evaluation_result=_output(RESULT, parameters),
            evaluation_ended=result["ended"],
        )

    def failed(self, parameters: Parameters, message: str, transaction: Transaction) -> None:
        """Have the model TRAINING_FAILED, with what to do in its StatusMessage."""
        shutil.rmtree(self._target(parameters), ignore_errors=True)
        forget_replaced(transaction, parameters["model_id"])
        _update(parameters, transaction, status=FAILED, message=message)

    def _images(
        self, parameters: Parameters, folder: Path, buckets: Buckets
    ) -> Tuple[Fetched, Fetched, List[str]]:
        """Return the images for training and for the test, and why others are left out.

        Raises InvalidConfiguration when there are too few of a label.
        """
        labelled = self._labelled(parameters)
        names = (TRAIN, TEST) if len(labelled) > 1 else (WHOLE,)
        for name, images in zip(names, labelled):
            check_counts(name, images)
        progress(f"Fetching {sum(map(len, labelled))} images.")
        fetched = [
            fetch(images, parameters["account"], buckets, folder / name.split()[0])
            for name, images in zip(names, labelled)
        ]
        for name, found in zip(names, fetched):
            check_counts(name, found.images.values(), found.left_out)
        left_out = [reason for found in fetched for reason in found.left_out]
        train, test = fetched if len(fetched) > 1 else split(fetched[0])
        return train, test, left_out

    def _labelled(self, parameters: Parameters) -> List[List[Image]]:
        """Return the labelled images of each dataset, as they were when the model was asked for."""
        datasets = parameters["datasets"]
        with closing(Records(self._root / RECORDS)) as records, records.read() as transaction:
            return [
                [
                    Image.of(entry.line, entry.label)
                    for entry in entries_for(
                        transaction, datasets[kind]["id"], parameters["model_id"],
                        datasets[kind]["last"],
                    )
                    if entry.label
                ]
                for kind in ("train", "test")
                if kind in datasets
            ]  # fmt: skip

    def _buckets(self) -> Buckets:
        return open_buckets(self._root, self._settings.buckets)

    def _target(self, parameters: Parameters) -> Path:
        names = (parameters[key] for key in ("account", "project", "version"))
        return package_folder(self._root, *names)


def package_folder(root: Path, account: str, project: str, version: str) -> Path:
    """Return where the package of a trained model lies."""
    return root / "models" / account / project / version


def _place(made: Path, target: Path) -> None:
    """Move the package, unless that was done before the service was killed. Raises OSError."""
    if made.exists():
        shutil.rmtree(target, ignore_errors=True)
        make_folder(target.parent)
        made.rename(target)
        sync_folder(target.parent)
    elif not target.exists():
        raise FileNotFoundError(errno.ENOENT, "the model's package is gone")


def _train(images: Fetched, test: Fetched, parameters: Parameters, folder: Path) -> Manifest:
    from edge_agent.training.trainer import train

    def show(step: str) -> None:
        """Show what the trainer says of itself and of images, not of other files."""
        log.info("%s", step)
        line = every.named(step)
        if str(folder) not in line:
            progress(f"{begun} {line}")

    begun = f"Training with {len(images.images)} images."
    progress(begun)
    manifest, tested, every = folder / "train.manifest", folder / "test.manifest", images | test
    images.write_manifest(manifest)
    test.write_manifest(tested)
    try:
        trained = train(
            manifest,
            folder / PACKAGE,
            name=parameters["project"][:MOST_NAME],
            version=parameters["version"],
            test=tested,
            progress=show,
        )
    except EdgeAgentError as error:
        raise every.failure(error, manifest, TRAIN) from None
    anomaly = only_anomaly(image.line for image in images.images.values())
    if anomaly is not None:
        _name_anomaly(trained, anomaly, folder / PACKAGE)
    return trained


def _name_anomaly(trained: Manifest, anomaly: Tuple[str, str], package: Path) -> None:
    """Have the model call what it finds by the masks' name for it, in their colour."""
    from edge_agent.manifest import FILE_NAME, AnomalyClass

    name, color = anomaly
    named = trained.model_copy(update={"classes": (AnomalyClass(name=name, color=color),)})
    (package / FILE_NAME).write_bytes(named.to_json())


def _count(package: Manifest) -> int:
    """Return how many images the model was trained with: the scores of all are counted."""
    scores = package.statistics
    counted = (scores.normal_scores, scores.anomaly_scores)
    return sum(sum(histogram.counts) for histogram in counted if histogram is not None)


def _key(kind: str, parameters: Parameters) -> str:
    return evaluation_files.key(
        kind, parameters["prefix"], parameters["project"], parameters["version"]
    )


def _output(kind: str, parameters: Parameters) -> Dict[str, str]:
    return {"Bucket": parameters["bucket"], "Key": _key(kind, parameters)}


def _update(parameters: Parameters, transaction: Transaction, **values: object) -> None:
    transaction.connection.execute(
        update(MODELS)
        .where(MODELS.c.id == parameters["model_id"], MODELS.c.status == TRAINING)
        .values(**values)
    )
