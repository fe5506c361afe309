"""Which images a model is trained and tested with."""

from __future__ import annotations

import json
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import List, Tuple

import pytest

from edge_agent.errors import InvalidConfiguration
from edge_agent.service.auth.access_keys import AccessKeys
from edge_agent.service.buckets.opening import open_buckets
from edge_agent.service.records.database import Records
from edge_agent.service.settings import BucketSettings
from edge_agent.service.work import evaluation_files
from edge_agent.service.work.training_images import MOST_IMAGE_BYTES, Image, fetch, parts
from tests.service.calls import ACCOUNT, OTHER


def lines(normal: int, anomaly: int) -> List[str]:
    labels = ["normal"] * normal + ["anomaly"] * anomaly
    return [line(f"s3://images/{number}.png", label) for number, label in enumerate(labels)]


def line(source: str, label: str) -> str:
    return json.dumps({"source-ref": source, "anomaly-label-metadata": {"class-name": label}})


def sources(images: List[Image]) -> List[str]:
    return [image.source for image in images]


@pytest.mark.parametrize(
    ("normal", "anomaly", "tested"), [(20, 10, (4, 2)), (31, 32, (6, 6)), (997, 13, (199, 3))]
)
def test_of_one_dataset_a_fifth_of_each_label_is_for_the_test(
    normal: int, anomaly: int, tested: object
) -> None:
    train, test = parts(lines(normal, anomaly), [], is_single=True)
    counts = Counter(image.label for image in test)
    assert (counts["normal"], counts["anomaly"]) == tested
    assert sorted(sources([*train, *test])) == sorted(
        json.loads(each)["source-ref"] for each in lines(normal, anomaly)
    )


def test_the_order_of_the_entries_does_not_change_the_split() -> None:
    one, other = (parts(each, [], True)[1] for each in (lines(40, 20), lines(40, 20)[::-1]))
    assert set(sources(one)) == set(sources(other))


def test_two_datasets_are_used_as_they_are() -> None:
    train, test = parts(lines(10, 3), lines(10, 10), is_single=False)
    assert (len(train), len(test)) == (13, 20)


@pytest.mark.parametrize(
    ("train", "test", "is_single"),
    [
        ((19, 10), (0, 0), True),
        ((20, 9), (0, 0), True),
        ((9, 0), (10, 10), False),
        ((10, 0), (9, 10), False),
        ((10, 0), (10, 9), False),
        ((10, 0), (0, 0), False),
    ],
)
def test_one_image_too_few_is_a_sentence(
    train: Tuple[int, int], test: Tuple[int, int], is_single: bool
) -> None:
    with pytest.raises(InvalidConfiguration, match="Add or label images"):
        parts(lines(*train), lines(*test), is_single)


def test_images_that_are_not_there_are_left_out_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "buckets" / "images").mkdir(parents=True)
    (tmp_path / "buckets" / "images" / "0.png").write_bytes(b"png")
    images = [Image.of(line(f"s3://images/{name}.png", "normal")) for name in ("0", "1")]
    fetched = fetch(images, ACCOUNT, open_buckets(tmp_path, BucketSettings()), tmp_path / "copies")
    assert sources(list(fetched.images.values())) == ["s3://images/0.png"]
    assert len(fetched.left_out) == 1
    assert "s3://images/1.png was not found" in fetched.left_out[0]


def test_images_in_the_bucket_of_another_account_are_answered_as_if_absent(tmp_path: Path) -> None:
    (tmp_path / "buckets" / "images").mkdir(parents=True)
    (tmp_path / "buckets" / "images" / "0.png").write_bytes(b"png")
    with closing(Records(tmp_path / "records.db")) as records:
        for account in (ACCOUNT, OTHER):
            AccessKeys(records).add(account, 0.0)
    images = [Image.of(line("s3://images/0.png", "normal"))]
    buckets = open_buckets(tmp_path, BucketSettings())
    for account in (ACCOUNT, OTHER):
        fetched = fetch(images, account, buckets, tmp_path / "copies")
        assert not fetched.images
        assert "was not found, or this account may not use it" in fetched.left_out[0]
    named = open_buckets(tmp_path, BucketSettings(accounts={"images": (OTHER,)}))
    assert not fetch(images, ACCOUNT, named, tmp_path / "copies").images
    assert fetch(images, OTHER, named, tmp_path / "copies").images


def test_an_image_that_is_too_large_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "buckets" / "images").mkdir(parents=True)
    with (tmp_path / "buckets" / "images" / "0.png").open("wb") as file:
        file.truncate(MOST_IMAGE_BYTES + 1)
    images = [Image.of(line("s3://images/0.png", "normal"))]
    fetched = fetch(images, ACCOUNT, open_buckets(tmp_path, BucketSettings()), tmp_path / "copies")
    assert "s3://images/0.png is too large" in fetched.left_out[0]


@pytest.mark.parametrize(
    ("prefix", "key"),
    [
        ("", "EvaluationResult-plates-3.json"),
        ("runs/", "runs/EvaluationResult-plates-3.json"),
        ("runs/a", "runs/a/EvaluationResult-plates-3.json"),
    ],
)
def test_the_output_prefix_is_a_folder(prefix: str, key: str) -> None:
    assert evaluation_files.key(evaluation_files.RESULT, prefix, "plates", "3") == key


def test_the_longest_name_of_a_project_fits_into_a_file_name() -> None:
    key = evaluation_files.key(evaluation_files.MANIFEST, "", "p" * 255, "9999999999")
    assert len(key) <= 255
