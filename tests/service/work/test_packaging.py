"""How a component comes into its bucket: whole or not at all, and once."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edge_agent.errors import InvalidRequest
from edge_agent.service.buckets.folders import FolderBuckets
from edge_agent.service.faults import ValidationFailed
from edge_agent.service.records.database import Records
from edge_agent.service.settings import ServiceSettings
from edge_agent.service.work.packaging import ComponentPlace, Packaging, store

ACCOUNT = "123456789012"
WANTED = {
    "S3OutputLocation": {"Bucket": "plant", "Prefix": "components/"},
    "ComponentName": "plant.Bolts",
    "ComponentVersion": "3.0.0",
}
KILLS = 6
STORES = """
import sys
from pathlib import Path
from edge_agent.service.buckets.folders import FolderBuckets
from tests.service.work.test_packaging import ACCOUNT, WANTED, ComponentPlace, store
print("begins", flush=True)
buckets = FolderBuckets(Path(sys.argv[2]), {})
store(Path(sys.argv[1]), ComponentPlace(WANTED), buckets, ACCOUNT, "job-1")
"""


def component(folder: Path, content: str = "weights") -> Path:
    """A component folder, as far as storing needs it."""
    for name, text in (
        ("artifacts/plant.Bolts/3.0.0/model.zip", content),
        ("recipes/plant.Bolts-3.0.0.json", json.dumps({"ComponentName": "plant.Bolts"})),
        ("recipe.yaml", "ComponentName: plant.Bolts"),
        ("tags.json", "{}"),
    ):
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return folder


def test_a_component_without_one_of_its_files_is_completed(tmp_path: Path) -> None:
    (tmp_path / "buckets" / "plant").mkdir(parents=True)
    place = ComponentPlace(WANTED)
    buckets = FolderBuckets(tmp_path / "buckets", {})
    made = component(tmp_path / "made" / "component")
    store(made, place, buckets, ACCOUNT, "job-1")
    there = tmp_path / "buckets" / "plant" / "components" / "plant.Bolts-3.0.0"
    (there / "tags.json").unlink()

    store(made, place, buckets, ACCOUNT, "job-1")

    assert (there / "tags.json").read_text() == "{}"
    shutil.rmtree(made)
    with pytest.raises(
        InvalidRequest, match=r"s3://plant/components/plant\.Bolts-3\.0\.0 is there"
    ):
        store(component(made, "others"), place, buckets, ACCOUNT, "job-1")


def test_a_prefix_may_have_empty_parts(tmp_path: Path) -> None:
    (tmp_path / "buckets" / "plant").mkdir(parents=True)
    location = {"S3OutputLocation": {"Bucket": "plant", "Prefix": "/a//b/"}}
    place = ComponentPlace({**WANTED, **location})
    buckets = FolderBuckets(tmp_path / "buckets", {})
    made = component(tmp_path / "made" / "component")
    store(made, place, buckets, ACCOUNT, "job-1")
    assert str(place) == "s3://plant//a//b/plant.Bolts-3.0.0"
    there = tmp_path / "buckets" / "plant" / "a" / "b" / "plant.Bolts-3.0.0"
    assert (there / "recipe.yaml").exists()


@pytest.mark.parametrize("missing", ["recipes/plant.Bolts-3.0.0.json", "recipe.yaml"])
def test_a_component_without_a_recipe_is_not_overwritten_by_another(
    tmp_path: Path, missing: str
) -> None:
    there = component(tmp_path / "buckets" / "plant" / "components" / "plant.Bolts-3.0.0")
    (there / missing).unlink()
    made = component(tmp_path / "made" / "component", "others")
    buckets = FolderBuckets(tmp_path / "buckets", {})
    with pytest.raises(InvalidRequest, match="is there already, with other content"):
        store(made, ComponentPlace(WANTED), buckets, ACCOUNT, "job-1")
    assert (there / "artifacts/plant.Bolts/3.0.0/model.zip").read_text() == "weights"
    assert not (there / missing).exists()


def test_a_component_that_cant_be_read_is_not_overwritten(tmp_path: Path) -> None:
    there = component(tmp_path / "buckets" / "plant" / "components" / "plant.Bolts-3.0.0")
    outside = component(tmp_path / "outside") / "recipe.yaml"
    (there / "recipe.yaml").unlink()
    (there / "recipe.yaml").symlink_to(outside)
    made = component(tmp_path / "made" / "component")
    buckets = FolderBuckets(tmp_path / "buckets", {})
    with pytest.raises(ValidationFailed, match=r"recipe\.yaml can't be used: a link"):
        store(made, ComponentPlace(WANTED), buckets, ACCOUNT, "job-1")
    assert (there / "recipe.yaml").is_symlink()


def test_a_killed_process_leaves_nothing_that_is_seen(tmp_path: Path) -> None:
    plant = tmp_path / "buckets" / "plant"
    plant.mkdir(parents=True)
    made = component(tmp_path / "made" / "component", "weights " * 2**20)
    words = [sys.executable, "-c", STORES, str(made), str(plant.parent)]
    chance, killed = random.Random(1), 0
    place, buckets = ComponentPlace(WANTED), FolderBuckets(plant.parent, {})
    for _ in range(KILLS):
        with subprocess.Popen(words, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(chance.uniform(0, 0.02))
            process.kill()
        killed += process.returncode != 0
        there = plant / "components" / "plant.Bolts-3.0.0"
        assert not there.exists() or len([*there.rglob("*.*")]) >= 4
        buckets.discard_part(ACCOUNT, place.name, "job-1")
        assert {path.name for path in plant.glob("components/*")} <= {there.name}
        shutil.rmtree(there, ignore_errors=True)
    assert killed


def test_a_component_that_cant_be_stored_leaves_nothing_hidden(tmp_path: Path) -> None:
    plant = tmp_path / "buckets" / "plant"
    there = plant / "components" / "plant.Bolts-3.0.0"
    (there / "artifacts").mkdir(parents=True)
    (there / "artifacts" / "plant.Bolts").write_text("an object")
    made = component(tmp_path / "made" / "component")

    with pytest.raises(ValidationFailed, match="a part of its key before a slash is an object"):
        store(made, ComponentPlace(WANTED), FolderBuckets(plant.parent, {}), ACCOUNT, "job-1")

    assert [path.name for path in plant.glob("components/*")] == [there.name]
    assert not (there / "recipes").exists()


@pytest.mark.parametrize("is_begun", [False, True])
def test_a_job_that_failed_or_was_killed_leaves_nothing_hidden(
    tmp_path: Path, records: Records, is_begun: bool
) -> None:
    mine, others = (
        tmp_path / "buckets" / "plant" / "components" / f".edge-agent-part-{part}"
        for part in ("mine", "others")
    )
    others.mkdir(parents=True)
    if is_begun:
        component(mine)
    kind = Packaging(tmp_path, ServiceSettings())
    parameters = {"job": 1, "account": ACCOUNT, "configuration": WANTED, "part": "mine"}

    with records.write() as transaction:
        kind.failed(parameters, "It was cancelled.", transaction)

    assert list(others.parent.iterdir()) == [others]
