"""`edge-agent publish`: S3 by moto, Greengrass by botocore's own validation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Dict

import pytest

from edge_agent.captures.upload import S3Location
from edge_agent.cli import main
from edge_agent.errors import InvalidRequest
from edge_agent.packaging.aws.folder import ComponentFolder
from edge_agent.packaging.aws.publish_command import CONTENT_TAG, Publication
from edge_agent.packaging.aws.session import Aws
from edge_agent.packaging.aws.upload import Bucket, upload
from edge_agent.packaging.recipe import LIMIT_BYTES
from tests.fakes import micro
from tests.packaging.aws.cloud import REGION, Cloud, component, folder

KEY = "line-4/plant.Bolts/1.0.0/model.zip"


@pytest.fixture(name="_bucket", autouse=True)
def _make_bucket(cloud: Cloud) -> None:
    place = {"LocationConstraint": REGION}
    cloud.aws.s3.create_bucket(Bucket="plant", CreateBucketConfiguration=place)


def publish(*words: Any) -> int:
    return main(["publish", *map(str, words), "--bucket", "plant", "--prefix", "line-4"])


def tags(cloud: Cloud, path: Path) -> Dict[str, str]:
    """The tag that publishing `path` puts on the version."""
    bucket = Bucket(cloud.aws, S3Location.parse("s3://plant/line-4"))
    return Publication(cloud.aws, ComponentFolder.read(path), bucket, {})._tags


def test_a_component_is_uploaded_created_and_followed(
    cloud: Cloud, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = folder(tmp_path / "c")
    expected = tags(cloud, made)
    recipe = json.loads((made / "recipes/plant.Bolts-1.0.0.json").read_bytes())
    recipe["Manifests"][0]["Artifacts"][0]["URI"] = f"s3://plant/{KEY}"
    cloud.lacks("plant.Bolts")
    cloud.lacks("plant.Bolts")
    cloud.creates(
        "plant.Bolts", (json.dumps(recipe, indent=2) + "\n").encode(), {"line": "4", **expected}
    )
    cloud.lacks("plant.Bolts")  # a moment later it may not be seen yet
    cloud.has("plant.Bolts", "REQUESTED", expected)
    cloud.has("plant.Bolts", "INITIATED", expected)
    cloud.has("plant.Bolts", "DEPLOYABLE", expected)

    assert publish(made, "--tag", "line=4") == 0

    assert cloud.read(KEY) == b"a model"
    assert capsys.readouterr().out == (
        "plant.Bolts 1.0.0 is created; 1 of 1 files sent: s3://plant/line-4/. It's DEPLOYABLE.\n"
    )


def test_what_package_makes_can_be_published(cloud: Cloud, tmp_path: Path) -> None:
    model = micro.write(tmp_path / "bolts", "classification", version="1")
    made = tmp_path / "made"
    words = ["--component-name", "plant.Bolts", "--out", str(made)]
    words += ["--target-platform", "os=LINUX,arch=X86_64", "--jobs-folder", str(tmp_path / "jobs")]
    assert main(["package", str(model), *words]) == 0
    cloud.lacks("plant.Bolts")
    cloud.lacks("plant.Bolts")
    cloud.creates("plant.Bolts")

    assert publish(made, "--wait-s", "0") == 0

    sent = (made / "artifacts/plant.Bolts/1.0.0/model.zip").read_bytes()
    assert cloud.read(KEY) == sent


def test_the_tags_it_was_packaged_with_go_along(cloud: Cloud, tmp_path: Path) -> None:
    made = folder(tmp_path / "c")
    content = tags(cloud, made)
    (made / "tags.json").write_text('{"line": "4", "shift": "night"}')
    cloud.lacks("plant.Bolts")
    cloud.lacks("plant.Bolts")
    cloud.creates("plant.Bolts", tags={**content, "line": "5", "shift": "night"})
    assert publish(made, "--tag", "line=5", "--wait-s", "0") == 0


def test_the_same_content_again_is_a_success_and_nothing_is_sent(
    cloud: Cloud, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = folder(tmp_path / "c")
    for _ in range(3):
        cloud.has("plant.Bolts", "DEPLOYABLE", tags(cloud, made))
    assert publish(made) == 0
    assert cloud.keys() == []
    assert capsys.readouterr().out == (
        "plant.Bolts 1.0.0 exists already, with the same content. It's DEPLOYABLE.\n"
    )


@pytest.mark.parametrize("other", [{"content": b"a model?"}, {"description": "Nuts"}])
def test_other_content_of_the_same_version_is_refused_before_anything_is_sent(
    cloud: Cloud, tmp_path: Path, capsys: pytest.CaptureFixture[str], other: Dict[str, Any]
) -> None:
    there = tags(cloud, folder(tmp_path / "there", **other))
    first, second = folder(tmp_path / "first", "plant.Nuts"), folder(tmp_path / "second")
    cloud.lacks("plant.Nuts")
    cloud.has("plant.Bolts", "DEPLOYABLE", there)
    assert publish(first, second) == 2
    assert cloud.keys() == []
    assert "plant.Bolts 1.0.0 exists already, with other content" in capsys.readouterr().err


def test_a_version_that_others_made_is_not_ours(
    cloud: Cloud, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cloud.has("plant.Bolts", "DEPLOYABLE", {})
    assert publish(folder(tmp_path / "c")) == 2
    assert capsys.readouterr().err == (
        "edge-agent: plant.Bolts 1.0.0 exists already, with other content or addresses. A "
        "version can't be replaced: package it again with a higher --component-version.\n"
    )


@pytest.mark.parametrize(("same", "code"), [(True, 0), (False, 2)])
def test_a_version_that_appears_meanwhile_counts_by_its_content(
    cloud: Cloud, tmp_path: Path, capsys: pytest.CaptureFixture[str], same: bool, code: int
) -> None:
    made = folder(tmp_path / "c")
    there = tags(cloud, made) if same else {CONTENT_TAG: "0"}
    cloud.lacks("plant.Bolts")
    cloud.lacks("plant.Bolts")
    cloud.refuses("create_component_version", None, "ConflictException", "it exists already")
    cloud.has("plant.Bolts", "DEPLOYABLE", there)
    assert publish(made, "--wait-s", "0") == code
    assert ("with other content" in capsys.readouterr().err) != same


def test_a_conflict_about_something_else_is_passed_on(
    cloud: Cloud, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cloud.lacks("plant.Bolts")
    cloud.lacks("plant.Bolts")
    cloud.refuses("create_component_version", None, "ConflictException", "two at once")
    cloud.lacks("plant.Bolts")
    assert publish(folder(tmp_path / "c")) == 2
    assert "refused CreateComponentVersion (ConflictException): two at once" in (
        capsys.readouterr().err
    )


def test_a_version_that_greengrass_cannot_use_is_told_with_its_reasons(
    cloud: Cloud, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = folder(tmp_path / "c")
    cloud.lacks("plant.Bolts")
    cloud.lacks("plant.Bolts")
    cloud.creates("plant.Bolts")
    cloud.has(
        "plant.Bolts", "FAILED", tags(cloud, made), message="No good", errors={f"s3://{KEY}": "?"}
    )
    assert publish(made) == 1
    assert capsys.readouterr().err == (
        "edge-agent: plant.Bolts 1.0.0 is FAILED: No good; "
        f"s3://{KEY}: ?. Package it with a higher --component-version, or delete this one.\n"
    )


def test_waiting_has_an_end(
    cloud: Cloud, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = folder(tmp_path / "c")
    for _ in range(3):
        cloud.has("plant.Bolts", "INITIATED", tags(cloud, made))
    assert publish(made, "--wait-s", "1e-9") == 1
    assert "is still INITIATED after 1e-09 s; run the same command" in capsys.readouterr().err


def test_a_file_that_is_there_is_not_sent_again(cloud: Cloud, tmp_path: Path) -> None:
    file = tmp_path / "model.zip"
    bucket = Bucket(cloud.aws, S3Location.parse("s3://plant"))
    file.write_bytes(b"one")
    assert bucket.send("a/model.zip", file, may_replace=False)
    assert not bucket.send("a/model.zip", file, may_replace=False)
    file.write_bytes(b"two")  # as long as before
    assert bucket.send("a/model.zip", file, may_replace=True)
    assert cloud.read("a/model.zip") == b"two"


def test_a_big_file_goes_in_parts(cloud: Cloud, tmp_path: Path) -> None:
    file = tmp_path / "model.zip"
    file.write_bytes(bytes(range(256)) * (9 << 12))  # 9 MiB, over boto3's 8
    bucket = Bucket(cloud.aws, S3Location.parse("s3://plant"))
    operations = []
    cloud.aws.s3.meta.events.register(
        "before-call.s3", lambda model, **_: operations.append(model.name)
    )
    assert bucket.send("model.zip", file, may_replace=False)
    assert operations.count("UploadPart") == 2
    assert cloud.read("model.zip") == file.read_bytes()
    assert not bucket.send("model.zip", file, may_replace=False)


def test_the_bucket_must_lie_in_the_region_of_the_component(
    cloud: Cloud, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Aws("eu-west-1").s3.create_bucket(
        Bucket="far", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"}
    )
    made = str(folder(tmp_path / "c"))
    assert main(["publish", made, "--bucket", "far"]) == 2
    assert "is in eu-west-1, but the component is for eu-central-1" in capsys.readouterr().err


def test_a_bucket_that_is_not_there_is_named(
    cloud: Cloud, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = str(folder(tmp_path / "c"))
    assert main(["publish", made, "--bucket", "nowhere"]) == 2
    assert capsys.readouterr().err == (
        "edge-agent: There is no s3://nowhere; create the bucket, or correct its name.\n"
    )


@pytest.mark.parametrize("bucket", ["s3://plant", "s3://plant/"])
def test_a_bucket_may_be_given_as_an_address(cloud: Cloud, tmp_path: Path, bucket: str) -> None:
    cloud.lacks("plant.Bolts")
    cloud.lacks("plant.Bolts")
    cloud.creates("plant.Bolts")
    words = ["--bucket", bucket, "--prefix", "line-4", "--wait-s", "0"]
    assert main(["publish", str(folder(tmp_path / "c")), *words]) == 0
    assert cloud.keys() == [KEY]


def test_what_is_uploaded_is_not_overwritten_with_other_content(
    cloud: Cloud, tmp_path: Path
) -> None:
    first = folder(tmp_path / "first")
    upload(first, "s3://plant/line-4")
    upload(first, "s3://plant/line-4")  # the same again

    with pytest.raises(InvalidRequest, match=f"s3://plant/{KEY} exists already, with other"):
        upload(
            folder(tmp_path / "second", content=b"another", description="2"), "s3://plant/line-4"
        )

    assert cloud.read(KEY) == b"a model"
    assert b'"Bolts"' in cloud.read("line-4/recipes/plant.Bolts-1.0.0.json")


def test_publishing_replaces_what_no_version_was_made_of(cloud: Cloud, tmp_path: Path) -> None:
    upload(folder(tmp_path / "first"), "s3://plant/line-4")
    cloud.lacks("plant.Bolts")
    cloud.lacks("plant.Bolts")
    cloud.creates("plant.Bolts")
    assert publish(folder(tmp_path / "second", content=b"another"), "--wait-s", "0") == 0
    assert cloud.read(KEY) == b"another"


def test_what_others_uploaded_is_not_overwritten(cloud: Cloud, tmp_path: Path) -> None:
    cloud.aws.s3.put_object(Bucket="plant", Key=KEY, Body=b"a model")  # of unknown digest
    with pytest.raises(InvalidRequest, match="higher --component-version, or another prefix"):
        upload(folder(tmp_path / "c"), "s3://plant/line-4")
    assert cloud.keys() == [KEY]


def test_tags_are_uploaded_beside_the_recipe(cloud: Cloud, tmp_path: Path) -> None:
    made = folder(tmp_path / "c")
    (made / "tags.json").write_text('{"line": "4", "Schicht": "früh"}')
    upload(made, "s3://plant/line-4")
    written = json.loads(cloud.read("line-4/tags/plant.Bolts-1.0.0.json"))
    assert written == {"line": "4", "Schicht": "früh"}


def test_a_component_can_be_uploaded_without_being_created(cloud: Cloud, tmp_path: Path) -> None:
    upload(folder(tmp_path / "c"), "s3://plant/line-4")
    recipe = "line-4/recipes/plant.Bolts-1.0.0.json"
    assert cloud.keys() == [KEY, recipe]
    written = json.loads(cloud.read(recipe))
    assert written["Manifests"][0]["Artifacts"][0]["URI"] == f"s3://plant/{KEY}"


# ---------------------------------------------------------------------- folders


def refused(capsys: pytest.CaptureFixture[str], *words: Any) -> str:
    assert publish(*words) == 2
    return capsys.readouterr().err


def test_a_folder_without_a_recipe_is_refused(
    cloud: Cloud, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "has 0 recipes; expected recipes/NAME-VERSION.json" in refused(capsys, tmp_path)


def test_an_artifact_that_is_missing_is_named(
    cloud: Cloud, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = folder(tmp_path / "c")
    (made / "artifacts/plant.Bolts/1.0.0/model.zip").unlink()
    assert "model.zip, which isn't there" in refused(capsys, made)


@pytest.mark.parametrize("way", ["dots", "link"])
def test_a_recipe_cannot_upload_what_lies_outside_its_folder(
    cloud: Cloud, tmp_path: Path, capsys: pytest.CaptureFixture[str], way: str
) -> None:
    made = folder(tmp_path / "c")
    (tmp_path / "private").write_text("mine")
    if way == "dots":
        recipe = made / "recipes/plant.Bolts-1.0.0.json"
        recipe.write_text(
            recipe.read_text().replace("plant.Bolts/1.0.0/model.zip", "../../private")
        )
    else:
        file = made / "artifacts/plant.Bolts/1.0.0/model.zip"
        file.unlink()
        file.symlink_to(tmp_path / "private")
    assert "which isn't in" in refused(capsys, made)


def test_addresses_that_make_the_recipe_too_big_for_lite_are_refused(
    cloud: Cloud, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = str(folder(tmp_path / "c"))
    assert main(["publish", made, "--bucket", "plant", "--prefix", "x" * LIMIT_BYTES]) == 2
    assert "nucleus lite takes fewer than 8192" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["[1]", '{"line": 4}', "{"])
def test_tags_that_are_none_are_refused(
    cloud: Cloud, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str
) -> None:
    made = folder(tmp_path / "c")
    (made / "tags.json").write_text(content)
    assert "tags.json" in refused(capsys, made)


@pytest.mark.parametrize("given", ["line", "=4"])
def test_a_tag_is_a_pair(
    cloud: Cloud, tmp_path: Path, capsys: pytest.CaptureFixture[str], given: str
) -> None:
    assert "expected NAME=VALUE" in refused(capsys, folder(tmp_path / "c"), "--tag", given)
    again = folder(tmp_path / "d")
    assert "give every name once" in refused(capsys, again, "--tag", "a=1", "--tag", "a=2")


def test_the_arn_that_is_asked_is_of_this_account_and_region(cloud: Cloud) -> None:
    found = cloud.aws.arn("greengrass", "components:plant.Bolts:versions:1.0.0")
    assert found == component("plant.Bolts")
