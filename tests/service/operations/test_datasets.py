from __future__ import annotations

import json
import random
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Dict, Iterable, Iterator, List, Tuple

import pytest
from sqlalchemy import insert, select, update

from edge_agent.service.buckets.folders import FolderBuckets
from edge_agent.service.faults import Conflict, ResourceNotFound, ValidationFailed
from edge_agent.service.records.database import Transaction
from edge_agent.service.records.dataset_entries import DatasetEntry, put_entries
from edge_agent.service.records.schema import ENTRIES, MODELS, PROJECTS
from edge_agent.service.settings import QuotaSettings
from edge_agent.service.work import dataset_imports
from tests import ROOT
from tests.service.dataset_site import ACCOUNT, OTHER, DatasetSite, line, manifest, opened

DATA = ROOT.parent / "shared" / "data" / "cookies"
COOKIES = "lookoutvision-us-east-1-0e205be246"  # the bucket that the cookies' manifests name


@pytest.fixture
def site(tmp_path: Path) -> Iterator[DatasetSite]:
    with opened(tmp_path) as service:
        service("CreateProject")
        yield service


def stats(description: Any) -> Any:
    counts = description["ImageStats"]
    return tuple(counts[name] for name in ("Total", "Labeled", "Normal", "Anomaly"))


def test_an_empty_dataset_is_there_at_once(site: DatasetSite) -> None:
    answer = site("CreateDataset", DatasetType="train")
    metadata = answer["DatasetMetadata"]
    assert isinstance(metadata, dict)
    assert metadata.pop("CreationTimestamp") <= datetime.now(timezone.utc)
    assert metadata == {
        "DatasetType": "train",
        "Status": "CREATE_COMPLETE",
        "StatusMessage": "The dataset was created.",
    }
    assert stats(site.describe()) == (0, 0, 0, 0)
    assert site.lines() == []


def test_a_dataset_is_created_from_a_manifest_in_the_background(site: DatasetSite) -> None:
    site.put(
        "m/train.manifest",
        [line("a", "normal"), line("b", "anomaly"), line("c"), line("d", "normal")],
    )
    answer = site(
        "CreateDataset", DatasetType="train", DatasetSource=manifest("plant", "m/train.manifest")
    )
    metadata = answer["DatasetMetadata"]
    assert isinstance(metadata, dict)
    assert metadata["Status"] == "CREATE_IN_PROGRESS"
    assert metadata["StatusMessage"] == "The dataset is being created."
    description = site.wait()
    assert description["Status"] == "CREATE_COMPLETE"
    assert description["ProjectName"] == "parts"
    assert description["LastUpdatedTimestamp"] >= description["CreationTimestamp"]
    assert stats(description) == (4, 3, 2, 1)
    assert site.images() == ["a", "b", "c", "d"]


@pytest.mark.parametrize("name", ["train_class", "train_segmentation"])
def test_the_cookies_manifests_are_taken_as_they_are(site: DatasetSite, name: str) -> None:
    if not DATA.is_dir():
        pytest.skip("the set cookies isn't here")
    bucket = site.root / "buckets" / COOKIES
    images = bucket / "getting-started" / "training-images"
    images.mkdir(parents=True)
    for image in DATA.glob("train/*/*"):
        shutil.copy(image, images)
    source = DATA / "manifests" / f"{name}.manifest"
    shutil.copy(source, bucket / "getting-started" / source.name)
    site(
        "CreateDataset",
        DatasetType="train",
        DatasetSource=manifest(COOKIES, f"getting-started/{source.name}"),
    )
    description = site.wait()
    assert (description["Status"], stats(description)) == ("CREATE_COMPLETE", (63, 63, 31, 32))
    assert site.lines(MaxResults=10) == source.read_text().splitlines()
    labelled_in_august = site.lines(
        AfterCreationDate=datetime(2022, 8, 22, 21, tzinfo=timezone.utc),
        BeforeCreationDate=datetime(2022, 8, 22, 22, tzinfo=timezone.utc),
    )
    assert 0 < len(labelled_in_august) < 63
    with site.records.read() as transaction:
        rows = transaction.connection.execute(select(ENTRIES)).all()
    buckets = FolderBuckets(site.root / "buckets", {})
    for row in rows:
        key = row.source_ref.split("/", 3)[3]
        image = buckets.fetch(ACCOUNT, COOKIES, key, site.root)
        assert (DATA / "train" / row.label / image.name).read_bytes() == image.read_bytes()


def test_a_manifest_with_wrong_lines_creates_nothing(site: DatasetSite) -> None:
    lines = [line(str(number), "normal") for number in range(2500)]
    site.put("m", [*lines, {"source-ref": "a.jpg"}, *lines, []])
    description = site.create("m")
    assert description["Status"] == "CREATE_FAILED"
    assert description["StatusMessage"] == (
        "Line 2501: a.jpg isn't an object in S3. Write s3://BUCKET/KEY. Line 5002: it must be a "
        "JSON object whose source-ref is s3://BUCKET/KEY. Correct the lines, then try again."
    )
    assert stats(description) == (0, 0, 0, 0)
    assert site.lines() == []
    with pytest.raises(Conflict, match=r"is CREATE_FAILED\..* create it again"):
        site("UpdateDatasetEntries", DatasetType="train", Changes=b"{}")
    site("DeleteDataset", DatasetType="train")
    site.put("m", lines)
    assert stats(site.create("m")) == (2500, 2500, 2500, 0)


def test_a_manifest_of_any_editor_is_taken_and_its_lines_come_back_as_they_were(
    site: DatasetSite,
) -> None:
    lines = [
        '{"own": {"deep": [1.0, null, "\\ud800"]},  "source-ref":"s3://plant/\u00e5.jpg"}',
        '{"source-ref": "s3://plant/b", "anomaly-label-metadata": {"class-name": "\\udfff"}}',
        '{"source-ref": "s3://plant/images/"}',
        '{"source-ref": "s3://plant/\\u00e5.jpg", "anomaly-label": 1, "again": "\u2028"}',
    ]
    place = site.root / "buckets" / "plant" / "m"
    place.write_bytes(b"\xef\xbb\xbf\r\n \r\n" + "\r\n\r\n".join(lines).encode())
    description = site.create("m")
    assert (description["Status"], stats(description)) == ("CREATE_COMPLETE", (2, 0, 0, 0))
    assert description["StatusMessage"] == (
        "The dataset was created. 1 line was left out, from line 7: source-ref is a folder."
    )
    assert site.lines() == [lines[3], lines[1]]
    changes = b"\xef\xbb\xbf" + lines[0].encode()
    site("UpdateDatasetEntries", DatasetType="train", Changes=changes)
    assert stats(site.wait()) == (2, 0, 0, 0)
    assert site.lines() == lines[:2]


def test_a_manifest_that_is_not_there_fails_the_dataset(site: DatasetSite) -> None:
    description = site.create("nothing.manifest")
    assert description["Status"] == "CREATE_FAILED"
    assert description["StatusMessage"].startswith("s3://plant/nothing.manifest was not found.")


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        (manifest("nowhere", "m"), "The bucket nowhere was not found"),
        (manifest("others", "m"), "The bucket others was not found"),
        (manifest("..", "m"), "can't be the name of a bucket"),
        (manifest("plant", "../others/m"), "can't be used"),
        (manifest("plant", "a/../m"), "can't be used"),
    ],
)
def test_a_manifest_that_cannot_be_is_refused_in_the_call(
    site: DatasetSite, source: Any, problem: str
) -> None:
    (site.root / "buckets" / "others").mkdir()
    with pytest.raises(ValidationFailed, match=problem):
        site("CreateDataset", DatasetType="train", DatasetSource=source)
    with pytest.raises(ResourceNotFound):
        site.describe()


def test_a_version_of_a_manifest_is_not_looked_at(site: DatasetSite) -> None:
    source = manifest("plant", "m")
    source["GroundTruthManifest"]["S3Object"]["VersionId"] = "1"
    answer = site("CreateDataset", DatasetType="train", DatasetSource=source)
    assert answer["DatasetMetadata"]["Status"] == "CREATE_IN_PROGRESS"


def test_a_project_has_one_dataset_of_each_type(site: DatasetSite) -> None:
    for dataset_type in ("test", "train"):
        site("CreateDataset", DatasetType=dataset_type)
        with pytest.raises(Conflict, match=f"has a {dataset_type} dataset already") as refused:
            site("CreateDataset", DatasetType=dataset_type)
        assert refused.value.members["ResourceType"] == "DATASET"
        assert refused.value.members["ResourceId"] == f"parts/{dataset_type}"
    description = site("DescribeProject")["ProjectDescription"]
    assert isinstance(description, dict)
    assert [dataset["DatasetType"] for dataset in description["Datasets"]] == ["train", "test"]


def test_an_update_adds_and_replaces_by_image_and_keeps_the_order(site: DatasetSite) -> None:
    site.put("m", [line("a", "normal"), line("b", "normal"), line("c", "normal")])
    site.create("m")
    description = site.update(line("d", "normal"), line("b", "anomaly"), line("c"), line("d"))
    assert description["Status"] == "UPDATE_COMPLETE"
    assert description["StatusMessage"] == "The dataset was updated."
    assert stats(description) == (4, 2, 1, 1)
    assert [json.loads(text) for text in site.lines()] == [
        line("a", "normal"), line("b", "anomaly"), line("c"), line("d"),
    ]  # fmt: skip
    assert stats(site.update(line("a", "anomaly"))) == (4, 2, 0, 2)


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        (
            {"source-ref": "s3://elsewhere/x"},
            "Line 3: its image is in the bucket elsewhere, others",
        ),
        ("text", "Line 3: it must be a JSON object"),
    ],
)
def test_an_update_with_a_wrong_line_changes_nothing(
    site: DatasetSite, wrong: object, problem: str
) -> None:
    site.put("m", [line("a", "normal"), line("b", "normal")])
    site.create("m")
    before = site.lines()
    description = site.update(line("a", "anomaly"), line("c"), wrong)
    assert description["Status"] == "UPDATE_FAILED_ROLLBACK_COMPLETE"
    assert description["StatusMessage"].startswith(problem)
    assert site.lines() == before
    assert stats(site.update(line("a", "anomaly"))) == (2, 2, 1, 1)


def test_the_quota_of_images_counts_every_image_once(tmp_path: Path) -> None:
    with opened(tmp_path, quotas=QuotaSettings(train_images=1500, test_images=2)) as site:
        site("CreateProject")
        site.put("twice", [line(str(number % 1500), "normal") for number in range(3000)])
        assert stats(site.create("twice")) == (1500, 1500, 1500, 0)
        assert site.update(line("0", "anomaly"))["Status"] == "UPDATE_COMPLETE"
        description = site.update(line("1", "anomaly"), line("more"))
        assert description["Status"] == "UPDATE_FAILED_ROLLBACK_COMPLETE"
        assert "holds at most 1500 images" in description["StatusMessage"]
        assert stats(description) == (1500, 1500, 1499, 1)
        description = site.create("twice", "test")
        assert description["Status"] == "CREATE_FAILED"
        assert "quotas.test_images" in description["StatusMessage"]


def test_entries_are_listed_page_by_page_in_the_order_of_the_manifest(site: DatasetSite) -> None:
    names = [f"{number:03}" for number in range(250)]
    site.put("m", [line(name, "normal") for name in reversed(names)])
    site.create("m")
    first = site("ListDatasetEntries", DatasetType="train")
    assert len(first["DatasetEntries"]) == 100  # type: ignore[arg-type]
    assert site.images() == site.images(MaxResults=7) == names[::-1]
    with pytest.raises(ValidationFailed, match="NextToken"):
        site("ListDatasetEntries", DatasetType="train", Labeled=True, NextToken=first["NextToken"])


def test_all_filters_select_entries(site: DatasetSite) -> None:
    site.put(
        "m",
        [
            line("line1/IMG_17.jpg", "normal", "2020-06-22T23:59:59"),
            line("line1/img_17.jpg", "anomaly", "2020-06-23T00:00:00.000Z"),
            line("line2/IMG%17.jpg", "normal", "2020-06-23T02:00:01+02:00"),
            line("line2/IMG_171.jpg"),
        ],
    )
    site.create("m")
    day = datetime(2020, 6, 23, tzinfo=timezone.utc)
    everything = site.images()
    one, two, three, four = everything
    assert site.images(Labeled=True) == [one, two, three]
    assert site.images(Labeled=False) == [four]
    assert site.images(AnomalyClass="normal") == [one, three]
    assert site.images(AnomalyClass="anomaly") == [two]
    assert site.images(SourceRefContains="IMG_17") == [one, four]
    assert site.images(SourceRefContains="%") == [three]
    assert site.images(SourceRefContains="s3://plant/") == everything
    assert site.images(BeforeCreationDate=day) == [one]
    assert site.images(AfterCreationDate=day) == [three, four]  # without date: when it was added
    assert site.images(AfterCreationDate=datetime.now(timezone.utc) - timedelta(minutes=5)) == [
        four
    ]
    assert site.images(AnomalyClass="normal", SourceRefContains="line2", MaxResults=1) == [three]
    assert site.images(AnomalyClass="normal", Labeled=False) == []


def test_what_another_account_has_does_not_exist(site: DatasetSite) -> None:
    site("CreateDataset", DatasetType="train")
    site("CreateProject", OTHER, ProjectName="own")
    for operation, parameters in (
        ("CreateDataset", {}),
        ("DescribeDataset", {}),
        ("ListDatasetEntries", {}),
        ("UpdateDatasetEntries", {"Changes": b"{}"}),
        ("DeleteDataset", {}),
    ):
        with pytest.raises(ResourceNotFound, match="The project parts was not found"):
            site(operation, OTHER, DatasetType="train", **parameters)
    assert site.describe()["Status"] == "CREATE_COMPLETE"


def test_a_deleted_dataset_is_gone_for_the_next_call(site: DatasetSite) -> None:
    site.put("m", [line(str(number)) for number in range(2500)])
    site.create("m")
    assert site("DeleteDataset", DatasetType="train") == {}
    with pytest.raises(ResourceNotFound, match="The project parts has no train dataset"):
        site.describe()
    site("DeleteProject")


def test_a_dataset_is_not_deleted_while_a_model_is_trained_with_it(site: DatasetSite) -> None:
    site("CreateDataset", DatasetType="train")
    with site.records.write() as transaction:
        project_id = transaction.connection.scalar(select(PROJECTS.c.id))
        model = {"project_id": project_id, "version": 1, "arn": "arn", "created": time.time()}
        model.update(status="TRAINING", output_bucket="plant")
        transaction.connection.execute(insert(MODELS).values(**model))
    with pytest.raises(Conflict, match="Model version 1 is being trained") as refused:
        site("DeleteDataset", DatasetType="train")
    assert refused.value.members["ResourceType"] == "MODEL"
    with site.records.write() as transaction:
        transaction.connection.execute(update(MODELS).values(status="TRAINED"))
    site("DeleteDataset", DatasetType="train")


class HeldBuckets(FolderBuckets):
    """Manifests are read once `go` is set."""

    go = threading.Event()

    def lines(self, account: str, bucket: str, key: str, most_bytes: int) -> Iterator[bytes]:
        assert self.go.wait(120)
        return super().lines(account, bucket, key, most_bytes)


def test_a_dataset_that_changes_cannot_be_changed(tmp_path: Path) -> None:
    with opened(tmp_path, kind=HeldBuckets) as site:
        for name in ("parts", "second", "third"):
            site("CreateProject", ProjectName=name)
        site.put("m", [line("a")])
        source = manifest("plant", "m")
        for name in ("second", "third"):  # takes all threads
            site("CreateDataset", ProjectName=name, DatasetType="train", DatasetSource=source)
        site("CreateDataset", DatasetType="train")
        changes = {"DatasetType": "train", "Changes": json.dumps(line("a")).encode()}
        again = {"ProjectName": "second", "DatasetType": "train"}
        try:
            site("UpdateDatasetEntries", **changes, ClientToken="1")
            assert site.describe()["Status"] == "UPDATE_IN_PROGRESS"
            assert site("UpdateDatasetEntries", **changes, ClientToken="1") == {
                "Status": "UPDATE_IN_PROGRESS"
            }
            with pytest.raises(Conflict, match=r"is UPDATE_IN_PROGRESS\..* Wait for the end"):
                site("UpdateDatasetEntries", **changes, ClientToken="2")
            with pytest.raises(Conflict, match="is UPDATE_IN_PROGRESS"):
                site("DeleteDataset", DatasetType="train")
            with pytest.raises(Conflict, match="is CREATE_IN_PROGRESS"):
                site("DeleteDataset", **again)
            with pytest.raises(Conflict, match="is CREATE_IN_PROGRESS"):
                site("UpdateDatasetEntries", **{**changes, **again})
            with pytest.raises(Conflict, match="already, which is CREATE_IN_PROGRESS"):
                site("CreateDataset", **again)
            assert site.lines(**again) == []
        finally:
            HeldBuckets.go.set()
        assert site.wait()["Status"] == "UPDATE_COMPLETE"
        assert site.images() == ["a"]


class CountingBuckets(FolderBuckets):
    """Counts the manifests that are read."""

    read_manifests = 0

    def lines(self, account: str, bucket: str, key: str, most_bytes: int) -> Iterator[bytes]:
        self.read_manifests += 1
        return super().lines(account, bucket, key, most_bytes)


def test_1000_concurrent_calls_with_duplicated_tokens_change_each_dataset_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    updates: List[int] = []
    put = put_entries

    def counted(transaction: Transaction, dataset_id: int, entries: Iterable[DatasetEntry]) -> None:
        updates.append(dataset_id)
        put(transaction, dataset_id, entries)

    names = [f"p{number}" for number in range(50)]
    source, changes = manifest("plant", "m"), json.dumps(line("b", "anomaly")).encode()
    calls = [
        (operation, {"ProjectName": name, "DatasetType": "train", **parameters})
        for operation, parameters in (
            ("CreateDataset", {"DatasetSource": source, "ClientToken": "c"}),
            ("UpdateDatasetEntries", {"Changes": changes, "ClientToken": "u"}),
        )
        for name in names
    ]
    with opened(tmp_path, kind=CountingBuckets) as site, ThreadPoolExecutor(25) as pool:
        site.put("m", [line("a", "normal")])
        for name in names:
            site("CreateProject", ProjectName=name)

        def run(call: Tuple[str, Dict[str, Any]]) -> str:
            operation, parameters = call
            token = f"{parameters['ClientToken']}-{parameters['ProjectName']}"
            return str(site(operation, **{**parameters, "ClientToken": token}))

        for number, some in enumerate((calls[:50], calls[50:])):
            if number:
                monkeypatch.setattr(dataset_imports, "put_entries", counted)
            repeated = some * 10
            random.Random(number).shuffle(repeated)
            answers = dict.fromkeys(zip(map(str, repeated), pool.map(run, repeated)))
            assert len(answers) == 50  # the same one to each of a token
            for name in names:
                description = site.wait(project=name)
                assert description["Status"] in ("CREATE_COMPLETE", "UPDATE_COMPLETE")
                assert description["ImageStats"]["Total"] == number + 1
        assert site.buckets.read_manifests == 50
    assert sorted(updates) == sorted(set(updates))
    assert len(updates) == 50
