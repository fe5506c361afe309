"""CreateModel and DeleteModel, with real trainings in child processes on drawn parts."""

from __future__ import annotations

import contextlib
import json
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional

import cv2
import numpy as np
import pytest
from sqlalchemy import insert, select, update

from edge_agent.errors import InvalidConfiguration
from edge_agent.runtime.packages.package import Package
from edge_agent.service.buckets.opening import open_buckets
from edge_agent.service.call import Answer, Operation
from edge_agent.service.faults import Conflict, QuotaExceeded, ResourceNotFound, ValidationFailed
from edge_agent.service.operations.model_training import DELETING, ModelTraining
from edge_agent.service.operations.models import Models
from edge_agent.service.records.database import Records, Transaction
from edge_agent.service.records.dataset_entries import (
    DatasetEntry,
    entries_for,
    forget_replaced,
    put_entries,
)
from edge_agent.service.records.schema import (
    DATASETS,
    MODELS,
    PACKAGING_JOBS,
    PROJECTS,
    REPLACED_ENTRIES,
    TAGS,
    WORK,
)
from edge_agent.service.settings import QuotaSettings, ServiceSettings
from edge_agent.service.work.children import Children
from edge_agent.service.work.training import Training
from tests.service.calls import ACCOUNT, OTHER, call
from tests.training import pictures

LIMIT_S = 300.0  # for a training on a busy machine
pytestmark = pytest.mark.timeout(2 * LIMIT_S)
OUTPUT = {"S3Location": {"Bucket": "output", "Prefix": "runs/"}}


@dataclass
class Service:
    """The parts of the service that train."""

    root: Path
    records: Records
    work: Children
    training: ModelTraining
    models: Models

    def write(self, operation: Operation, name: str, **parameters: Any) -> Answer:
        account = parameters.pop("account", ACCOUNT)
        with self.records.write() as transaction:
            return operation(call(name, account, **parameters), transaction)

    def create_model(self, **parameters: Any) -> Answer:
        parameters = {"ProjectName": "plates", "OutputConfig": OUTPUT, **parameters}
        return self.write(self.training.create_model, "CreateModel", **parameters)

    def delete_model(self, version: str = "1", account: str = ACCOUNT) -> Answer:
        return self.write(
            self.training.delete_model,
            "DeleteModel",
            account=account,
            ProjectName="plates",
            ModelVersion=version,
        )

    def model(self, version: str = "1") -> Dict[str, Any]:
        asked = call("DescribeModel", ProjectName="plates", ModelVersion=version)
        with self.records.read() as transaction:
            answer: Any = self.models.describe_model(asked, transaction)
        found: Dict[str, Any] = answer["ModelDescription"]
        return found

    def trained(self, version: str = "1") -> Dict[str, Any]:
        wait_until(lambda: self.model(version)["Status"] != "TRAINING")
        return self.model(version)

    def package(self, version: str = "1") -> Path:
        return self.root / "models" / ACCOUNT / "plates" / version

    def asked(self) -> List[Dict[str, Any]]:
        """Return the parameters of the trainings that wait, in order."""
        with self.records.read() as transaction:
            query = select(WORK.c.parameters).order_by(WORK.c.created)
            return list(transaction.connection.scalars(query))

    def seen(self, asked: Dict[str, Any]) -> Dict[str, Optional[str]]:
        """Return the labels that a training sees, by image."""
        train = asked["datasets"]["train"]
        with self.records.read() as transaction:
            rows = list(entries_for(transaction, train["id"], asked["model_id"], train["last"]))
        return {source_of(row.line): row.label for row in rows}

    def set(self, **values: object) -> None:
        with self.records.write() as transaction:
            transaction.connection.execute(update(MODELS).values(**values))

    def count(self, table: Any) -> int:
        with self.records.read() as transaction:
            return len(transaction.connection.execute(select(table)).all())


def source_of(line: str) -> str:
    content = json.loads(line)
    return str(content["source-ref"] if isinstance(content, dict) else content[0])


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.02)


def opened(root: Path, records: Records, quotas: Optional[QuotaSettings] = None) -> Service:
    settings = ServiceSettings(quotas=quotas or QuotaSettings())
    work = Children(root=root, settings=settings, records=records)
    training = ModelTraining(
        root=root,
        settings=settings,
        records=records,
        buckets=open_buckets(root, settings.buckets),
        work=work,
    )
    return Service(root, records, work, training, Models())


@pytest.fixture
def service(tmp_path: Path, records: Records) -> Service:
    """Return one with a bucket for output and a project, whose work isn't started."""
    (tmp_path / "buckets" / "output").mkdir(parents=True)
    values = {"account": ACCOUNT, "name": "plates", "arn": "arn", "created": 0.0}
    with records.write() as transaction:
        transaction.connection.execute(insert(PROJECTS).values(**values))
    return opened(tmp_path, records)


@pytest.fixture
def working(service: Service) -> Iterator[Service]:
    service.work.start()
    yield service
    service.work.close()


def add_dataset(
    service: Service, kind: str, normal: int, anomaly: int, with_masks: bool = False
) -> List[str]:
    """Draw images into a bucket and give the project a dataset with them; return their URIs."""
    bucket = service.root / "buckets" / f"{kind}-images"
    pictures.write(bucket, normal, anomaly, first_seed={"train": 0, "test": 500}[kind])
    with service.records.write() as transaction:
        values = {"project_id": 1, "type": kind, "created": 0.0, "updated": 0.0}
        values["status"] = "CREATE_COMPLETE"
        added = transaction.connection.execute(insert(DATASETS).values(**values))
        assert added.inserted_primary_key is not None
        drawn = [
            path for label in ("normal", "anomaly") for path in sorted(bucket.glob(f"{label}/*"))
        ]
        entries = [entry(path, bucket, with_masks) for path in drawn]
        put_entries(transaction, added.inserted_primary_key[0], entries)
    return [each.source_ref for each in entries]


def entry(path: Path, bucket: Path, with_mask: bool) -> DatasetEntry:
    source = f"s3://{bucket.name}/{path.relative_to(bucket)}"
    label = path.parent.name
    metadata = {"class-name": label, "type": "groundtruth/image-classification"}
    line: Dict[str, Any] = {
        "source-ref": source,
        "anomaly-label": int(label == "anomaly"),
        "anomaly-label-metadata": metadata,
    }
    if with_mask:
        line.update(mask_of(path, bucket))
    return DatasetEntry(source, json.dumps(line), label, 0.0)


def mask_of(path: Path, bucket: Path) -> Dict[str, Any]:
    """Draw the mask of an image of a stained part, as the console of the original did."""
    normal, color = {"class-name": "BACKGROUND", "hex-color": "#ffffff"}, (36, 164, 54)
    if path.parent.name == "normal":
        name, classes = "dummy.png", {"0": normal}
    else:
        name, classes = path.name, {"0": {"class-name": "stain", "hex-color": "#24a436"}}
        image = np.array(cv2.imread(str(path)), int)
        mask = np.full(image.shape, 255, np.uint8)
        mask[image[..., 2] - image[..., 0] > 60] = color[::-1]
        (bucket / "masks").mkdir(exist_ok=True)
        assert cv2.imwrite(str(bucket / "masks" / name), mask)
    metadata = {"internal-color-map": classes, "type": "groundtruth/semantic-segmentation"}
    source = f"s3://{bucket.name}/masks/{name}"
    return {"anomaly-mask-ref": source, "anomaly-mask-ref-metadata": metadata}


def test_a_model_of_one_dataset_is_trained_and_tested_on_a_fifth_of_it(working: Service) -> None:
    sources = add_dataset(working, "train", 20, 10, with_masks=True)
    answer: Any = working.create_model(
        Description="First", Tags=[{"Key": "line", "Value": "4"}], KmsKeyId="alias/plates"
    )
    arn = f"arn:aws:lookoutvision:eu-west-1:{ACCOUNT}:model/plates/1"
    assert answer["ModelMetadata"]["Status"] == "TRAINING"
    assert answer["ModelMetadata"]["ModelArn"] == arn
    model = working.trained()
    assert model["Status"] == "TRAINED", model["StatusMessage"]
    assert model["StatusMessage"] == "Training completed successfully."
    assert model["Performance"] == {"F1Score": 1.0, "Recall": 1.0, "Precision": 1.0}
    assert model["Description"] == "First"
    assert model["KmsKeyId"] == "alias/plates"
    manifest = Package(working.package()).manifest
    assert (manifest.name, manifest.version) == ("plates", "1")
    assert [(each.name, each.color) for each in manifest.anomaly_classes] == [("stain", "#24A436")]
    lines = lines_of(working, model["EvaluationManifest"], "EvaluationManifest")
    assert len(lines) == 6
    assert {line["source-ref"] for line in lines} < set(sources)
    for line in lines:
        check_line(line, arn)
    (result,) = lines_of(working, model["EvaluationResult"], "EvaluationResult")
    check_result(result, arn, trained=24, tested=6)
    (pixels,) = result["AggregatedEvaluationResults"]["Metrics"]["PixelAnomalyClassMetrics"]
    assert pixels["ClassName"] == "stain"
    assert 0.2 < pixels["AIOU"] <= 1.0
    assert 0.2 < pixels["F1Score"] <= 1.0
    assert working.count(TAGS) == 1
    assert working.count(WORK) == 0


def lines_of(service: Service, place: Dict[str, str], kind: str) -> List[Dict[str, Any]]:
    assert place == {"Bucket": "output", "Key": f"runs/{kind}-plates-1.json"}
    file = service.root / "buckets" / "output" / place["Key"]
    return [json.loads(line) for line in file.read_text().splitlines()]


def check_line(line: Dict[str, Any], arn: str) -> None:
    assert line["anomaly-label-detected"] == line["anomaly-label"]
    detected = line["anomaly-label-detected-metadata"]
    assert detected["class-name"] == line["anomaly-label-metadata"]["class-name"]
    assert 0.5 <= detected["confidence"] <= 1.0
    assert detected["human-annotated"] == "no"
    assert detected["type"] == "groundtruth/image-classification"
    assert (detected["project-name"], detected["model-version"]) == ("plates", "1")
    assert detected["model-arn"] == arn


def check_result(result: Dict[str, Any], arn: str, trained: int, tested: int) -> None:
    assert result["Version"] == 1
    details = result["EvaluationDetails"]
    assert details["ModelArn"] == arn
    assert details["NumberOfTrainingImages"] == trained
    assert details["NumberOfTestingImages"] == tested
    metrics = result["AggregatedEvaluationResults"]["Metrics"]
    assert set(metrics) >= {"ROCAUC", "AveragePrecision", "Precision", "Recall", "F1Score"}
    assert metrics["F1Score"] == 1.0


def test_two_datasets_are_used_as_they_are_without_images_that_are_gone(working: Service) -> None:
    add_dataset(working, "train", 11, 0)
    (working.root / "buckets" / "train-images" / "normal" / "000.png").unlink()
    tested = add_dataset(working, "test", 10, 10)
    working.create_model()
    model = working.trained()
    assert model["Status"] == "TRAINED", model["StatusMessage"]
    lines = lines_of(working, model["EvaluationManifest"], "EvaluationManifest")
    assert {line["source-ref"] for line in lines} == set(tested)
    (result,) = lines_of(working, model["EvaluationResult"], "EvaluationResult")
    assert result["EvaluationDetails"]["NumberOfTrainingImages"] == 10
    assert "PixelAnomalyClassMetrics" not in result["AggregatedEvaluationResults"]["Metrics"]
    left_out = "1 image was left out: s3://train-images/normal/000.png was not found."
    assert left_out in model["StatusMessage"]


def test_too_few_images_after_some_were_left_out_fail_with_the_reasons(working: Service) -> None:
    add_dataset(working, "train", 21, 10)
    images = working.root / "buckets" / "train-images" / "normal"
    (images / "000.png").unlink()
    (images / "001.png").write_bytes((images / "001.png").read_bytes()[:999])
    working.create_model()
    model = working.trained()
    assert model["Status"] == "TRAINING_FAILED"
    said = model["StatusMessage"]
    assert said.startswith("The dataset has 19 normal and 10 anomaly images that are labelled and")
    assert "2 images were left out: s3://train-images/normal/000.png was not found." in said
    assert "s3://train-images/normal/001.png can't be used: " in said
    assert not list((working.root / "buckets" / "output").iterdir())


@pytest.mark.parametrize(
    ("train", "test", "sentence"),
    [
        (
            (19, 10),
            None,
            "The dataset has 19 normal and 10 anomaly images that are labelled; at least 20 "
            "normal and 10 anomaly images are needed. Add or label images, then create another "
            "model.",
        ),
        ((20, 9), None, "The dataset has 20 normal and 9 anomaly images"),
        ((9, 9), (10, 10), "The training dataset has 9 normal and 9 anomaly images"),
        ((10, 0), (9, 10), "The test dataset has 9 normal and 10 anomaly images"),
        ((10, 0), (10, 9), "The test dataset has 10 normal and 9 anomaly images"),
    ],
)
def test_too_few_images_fail_the_training_with_a_sentence(
    working: Service, train: Any, test: Any, sentence: str
) -> None:
    add_dataset(working, "train", *train)
    if test:
        add_dataset(working, "test", *test)
    working.create_model()
    model = working.trained()
    assert model["Status"] == "TRAINING_FAILED"
    assert model["StatusMessage"].startswith(sentence)
    assert "Performance" not in model
    assert not working.package().exists()


def test_images_that_are_none_fail_the_training_without_paths_of_the_machine(
    working: Service,
) -> None:
    add_dataset(working, "train", 20, 10)
    for path in (working.root / "buckets" / "train-images" / "normal").iterdir():
        path.write_bytes(b"not a picture")
    working.create_model()
    model = working.trained()
    assert model["Status"] == "TRAINING_FAILED"
    assert "s3://train-images/normal/" in model["StatusMessage"]
    assert str(working.root) not in model["StatusMessage"]


def test_copies_are_named_as_the_user_knows_them(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_dataset(service, "train", 10, 0)
    add_dataset(service, "test", 10, 10)
    buckets = service.root / "buckets"
    first = buckets / "train-images" / "normal" / "000.png"
    for path in (*first.parent.glob("*"), buckets / "test-images" / "normal" / "007.png"):
        path.write_bytes(first.read_bytes())
    service.create_model()
    with service.records.read() as transaction:
        work = transaction.connection.execute(select(WORK)).one()
    said: List[str] = []
    monkeypatch.setattr("edge_agent.service.work.training.progress", said.append)
    sentence = r"^All normal images are the same picture \(s3://train-images/normal/000\.png, s3:"
    with pytest.raises(InvalidConfiguration, match=sentence):
        Training(service.root, ServiceSettings()).run(work.parameters, service.root / "folder")
    pair = "(s3://test-images/normal/007.png = s3://train-images/normal/000.png)"
    assert [line for line in said if f"are trained on and tested with {pair}" in line]


def test_what_stands_in_the_way_of_a_training_is_a_conflict(service: Service) -> None:
    with pytest.raises(Conflict, match="has no train dataset"):
        service.create_model()
    add_dataset(service, "train", 20, 10)
    with service.records.write() as transaction:
        changing = update(DATASETS).values(status="UPDATE_IN_PROGRESS")
        transaction.connection.execute(changing)
    with pytest.raises(Conflict, match="is UPDATE_IN_PROGRESS"):
        service.create_model()
    with service.records.write() as transaction:
        transaction.connection.execute(update(DATASETS).values(status="UPDATE_COMPLETE"))
    service.create_model()
    assert service.model()["StatusMessage"] == "The training waits for its turn."
    assert service.count(WORK) == service.count(MODELS) == 1


def test_a_project_has_several_trainings_at_a_time_within_the_quota(service: Service) -> None:
    add_dataset(service, "train", 20, 10)
    versions: Any = [service.create_model()["ModelMetadata"] for _ in range(2)]
    assert [each["ModelVersion"] for each in versions] == ["1", "2"]
    with pytest.raises(QuotaExceeded, match="trainings"):
        service.create_model()


def test_a_training_sees_the_datasets_as_they_were_when_it_was_asked_for(service: Service) -> None:
    sources = add_dataset(service, "train", 20, 10)
    service.create_model()
    (asked,) = service.asked()
    with service.records.write() as transaction:
        replace(transaction, sources[0], "anomaly")
        replace(transaction, sources[0], None)
        replace(transaction, "s3://train-images/new.png", "normal")
    service.create_model()
    _, later = service.asked()
    before, after = service.seen(asked), service.seen(later)
    assert before == {source: source.split("/")[3] for source in sources}
    assert after == {**before, sources[0]: None, "s3://train-images/new.png": "normal"}
    with service.records.write() as transaction:
        forget_replaced(transaction, asked["model_id"])
    assert service.count(REPLACED_ENTRIES) == 0


def replace(transaction: Transaction, source: str, label: Optional[str]) -> None:
    put_entries(transaction, 1, [DatasetEntry(source, json.dumps([source, label]), label, 1.0)])


def test_an_output_that_cannot_be_written_fails_before_the_training(working: Service) -> None:
    add_dataset(working, "train", 20, 10)
    (working.root / "buckets" / "output" / "runs").write_bytes(b"an object, no folder")
    working.create_model()
    model = working.trained()
    assert model["Status"] == "TRAINING_FAILED"
    assert "s3://output/runs/EvaluationManifest-plates-1.json can't be" in model["StatusMessage"]
    assert not (working.root / "work").exists() or not list((working.root / "work").iterdir())


def test_a_bad_place_for_the_output_or_project_is_refused(service: Service) -> None:
    add_dataset(service, "train", 20, 10)
    with pytest.raises(ResourceNotFound):
        service.create_model(ProjectName="other")
    with pytest.raises(ResourceNotFound):
        service.create_model(account=OTHER)
    for location in ({"Bucket": "missing"}, {"Bucket": "output", "Prefix": "a/../../b"}):
        with pytest.raises(ValidationFailed):
            service.create_model(OutputConfig={"S3Location": location})
    assert service.count(MODELS) == 0


def test_quotas_of_models_and_trainings_are_kept(service: Service) -> None:
    add_dataset(service, "train", 20, 10)
    for quotas in (QuotaSettings(models=0), QuotaSettings(trainings=0)):
        limited = opened(service.root, service.records, quotas)
        with pytest.raises(QuotaExceeded):
            limited.create_model()
    opened(service.root, service.records, QuotaSettings(models=1, trainings=1)).create_model()


def test_a_version_is_never_given_again(service: Service) -> None:
    add_dataset(service, "train", 20, 10)
    service.create_model()
    service.set(status="TRAINING_FAILED")
    service.delete_model()
    with pytest.raises(ResourceNotFound):
        service.model()
    assert service.count(TAGS) == 0
    answer: Any = service.create_model()
    assert answer["ModelMetadata"]["ModelVersion"] == "2"


@pytest.mark.parametrize(
    "status", ["TRAINING", "HOSTED", "STARTING_HOSTING", "STOPPING_HOSTING", "SYSTEM_UPDATING"]
)
def test_a_model_in_use_is_not_deleted(service: Service, status: str) -> None:
    add_dataset(service, "train", 20, 10)
    service.create_model()
    service.set(status=status)
    with pytest.raises(Conflict, match=status):
        service.delete_model()
    with pytest.raises(ResourceNotFound):
        service.delete_model(account=OTHER)
    assert service.count(MODELS) == 1


def test_a_model_that_is_packaged_is_not_deleted(service: Service) -> None:
    add_dataset(service, "train", 20, 10)
    service.create_model()
    service.set(status="TRAINED")
    job = {"project_id": 1, "name": "job", "model_version": "1", "configuration": {}}
    with service.records.write() as transaction:
        values = {**job, "status": "RUNNING", "created": 0.0, "updated": 0.0}
        transaction.connection.execute(insert(PACKAGING_JOBS).values(**values))
    with pytest.raises(Conflict, match="is being packaged"):
        service.delete_model()
    with service.records.write() as transaction:
        transaction.connection.execute(update(PACKAGING_JOBS).values(status="SUCCEEDED"))
    service.delete_model()


def test_a_deletion_that_was_interrupted_is_done_at_the_next_start(service: Service) -> None:
    add_dataset(service, "train", 20, 10)
    service.create_model(Tags=[{"Key": "line", "Value": "4"}])
    service.package().mkdir(parents=True)
    (service.package() / "model.onnx").write_bytes(b"model")
    service.set(status=DELETING)
    service.training.start()
    assert service.count(MODELS) == service.count(TAGS) == 0
    assert not service.package().exists()


def test_a_deletion_that_failed_is_done_when_it_is_asked_for_again(service: Service) -> None:
    add_dataset(service, "train", 20, 10)
    service.create_model()
    service.set(status="TRAINED")
    service.package().parent.mkdir(parents=True)
    service.package().write_bytes(b"no folder, which can't be removed")
    service.delete_model()
    model = service.model()
    assert model["Status"] == DELETING
    assert model["StatusMessage"].startswith("The model's files can't be removed: Not a directory.")
    assert "delete the model again" in model["StatusMessage"]
    assert str(service.root) not in model["StatusMessage"]
    service.package().unlink()
    service.delete_model()
    assert service.count(MODELS) == 0


def test_many_deletions_at_once_are_one(service: Service, caplog: pytest.LogCaptureFixture) -> None:
    add_dataset(service, "train", 20, 10)
    service.create_model()
    service.set(status="TRAINED")
    (service.package() / "golden").mkdir(parents=True)

    def ask(_: int) -> str:
        with contextlib.suppress(ResourceNotFound):
            service.delete_model()
        return "deleted"

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(ask, range(16))) == ["deleted"] * 16
    assert service.count(MODELS) == 0
    assert not service.package().exists()
    assert not caplog.records


def test_a_service_stopped_during_training_fails_it_at_the_next_start(working: Service) -> None:
    add_dataset(working, "train", 20, 10)
    working.create_model()
    wait_until(lambda: working.model()["StatusMessage"].startswith("Training with"))
    working.work.close()
    assert working.model()["Status"] == "TRAINING"
    again = opened(working.root, working.records)
    again.work.start()
    try:
        model = again.trained()
        assert not list((working.root / "buckets" / "output").iterdir())
    finally:
        again.work.close()
    assert model["Status"] == "TRAINING_FAILED"
    assert model["StatusMessage"].startswith("The service was stopped while this was under way.")
    assert not working.package().exists()
    assert not list((working.root / "work").iterdir())
