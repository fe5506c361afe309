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
from edge_agent.service.work.training_images import (
    MOST_IMAGE_BYTES,
    TEST,
    TRAIN,
    WHOLE,
    Fetched,
    Image,
    check_counts,
    fetch,
    left_out_sentence,
    split,
)
from tests.service.calls import ACCOUNT, OTHER
from tests.training import pictures


def images(normal: int, anomaly: int) -> List[Image]:
    labels = ["normal"] * normal + ["anomaly"] * anomaly
    return [image(f"s3://images/{number}.png", label) for number, label in enumerate(labels)]


def image(source: str, label: str = "normal") -> Image:
    return Image.of(json.dumps({"source-ref": source}), label)


def fetched(of: List[Image]) -> Fetched:
    return Fetched({Path(f"{number}.png"): each for number, each in enumerate(of)})


def sources(of: Fetched) -> List[str]:
    return [each.source for each in of.images.values()]


@pytest.mark.parametrize(
    ("normal", "anomaly", "tested"), [(20, 10, (4, 2)), (31, 32, (6, 6)), (997, 13, (199, 3))]
)
def test_of_one_dataset_a_fifth_of_each_label_is_for_the_test(
    normal: int, anomaly: int, tested: object
) -> None:
    every = fetched(images(normal, anomaly))
    train, test = split(every)
    counts = Counter(each.label for each in test.images.values())
    assert (counts["normal"], counts["anomaly"]) == tested
    assert sorted([*sources(train), *sources(test)]) == sorted(sources(every))


def test_the_order_of_the_entries_does_not_change_the_split() -> None:
    one, other = (split(fetched(each))[1] for each in (images(40, 20), images(40, 20)[::-1]))
    assert set(sources(one)) == set(sources(other))


def test_the_split_is_the_same_in_every_release() -> None:
    tested = sources(split(fetched(images(20, 10)))[1])
    assert tested == [f"s3://images/{number}.png" for number in (0, 9, 10, 14, 22, 29)]


@pytest.mark.parametrize(
    ("dataset", "enough", "too_few"),
    [
        (WHOLE, (20, 10), [(19, 10), (20, 9)]),
        (TRAIN, (10, 0), [(9, 10)]),
        (TEST, (10, 10), [(9, 10), (10, 9)]),
    ],
)
def test_one_image_too_few_is_a_sentence(
    dataset: str, enough: Tuple[int, int], too_few: List[Tuple[int, int]]
) -> None:
    check_counts(dataset, images(*enough))
    for counts in too_few:
        with pytest.raises(InvalidConfiguration, match="Add or label images"):
            check_counts(dataset, images(*counts), ["s3://images/a.png was not found."])


def test_images_that_cannot_be_used_are_left_out_with_the_reason(tmp_path: Path) -> None:
    bucket = tmp_path / "buckets" / "images"
    pictures.write(bucket, 1)
    good = (bucket / "normal" / "000.png").read_bytes()
    (bucket / "cut.png").write_bytes(good[: len(good) // 2])
    (bucket / "text.png").write_bytes(b"not a picture")
    (bucket / "large.png").write_bytes(good + bytes(MOST_IMAGE_BYTES))
    (bucket / "odd\nname, 'x'").write_bytes(good)
    names = ("normal/000.png", "gone.png", "cut.png", "text.png", "large.png", "odd\nname, 'x'")
    wanted = [image(f"s3://images/{name}") for name in names]
    found = fetch(wanted, ACCOUNT, open_buckets(tmp_path, BucketSettings()), tmp_path / "files")
    assert sources(found) == ["s3://images/normal/000.png", "s3://images/odd\nname, 'x'"]
    assert [path.name for path in found.images] == ["000000.png", "000005"]
    reasons = ("was not found", "can't be used: ", "can't be used: ", "is too large")
    for name, reason, sentence in zip(names[1:5], reasons, found.left_out):
        assert sentence.startswith(f"s3://images/{name} {reason}")
        assert str(tmp_path) not in sentence
    said = left_out_sentence(found.left_out)
    assert said.startswith("4 images were left out: s3://images/gone.png was not found.")
    assert said.endswith("Others: 1.")


def test_files_are_named_by_their_uris_however_the_trainer_names_them() -> None:
    uris = ("s3://parts/dataset/000001.png", "s3://parts/b.png")
    paths = (Path("/r/jobs/1/dataset/000000.png"), Path("/r/jobs/1/dataset/000001.png"))
    found = Fetched({path: image(uri) for path, uri in zip(paths, uris)})
    for first, second in (paths, ("dataset/000000.png", "dataset/000001.png")):
        assert found.named(f"Same: {second} = {first}.") == f"Same: {uris[1]} = {uris[0]}."
    assert found.named("Nothing.") == Fetched().named("Nothing.") == "Nothing."


def test_images_in_the_bucket_of_another_account_are_answered_as_if_absent(tmp_path: Path) -> None:
    pictures.write(tmp_path / "buckets" / "images", 1)
    with closing(Records(tmp_path / "records.db")) as records:
        for account in (ACCOUNT, OTHER):
            AccessKeys(records).add(account, 0.0)
    images = [image("s3://images/normal/000.png")]
    buckets = open_buckets(tmp_path, BucketSettings())
    for account in (ACCOUNT, OTHER):
        fetched = fetch(images, account, buckets, tmp_path / "copies")
        assert not fetched.images
        assert "was not found, or this account may not use it" in fetched.left_out[0]
    named = open_buckets(tmp_path, BucketSettings(accounts={"images": (OTHER,)}))
    assert not fetch(images, ACCOUNT, named, tmp_path / "copies").images
    assert fetch(images, OTHER, named, tmp_path / "copies").images


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
