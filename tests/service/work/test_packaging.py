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
from edge_agent.service.faults import ServiceFault
from edge_agent.service.work.packaging import ComponentPlace, store

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
store(Path(sys.argv[1]), ComponentPlace(WANTED), FolderBuckets(Path(sys.argv[2]), {}), ACCOUNT)
"""


class Failing(FolderBuckets):
    """Ends after some objects, as when the power goes."""

    left = 0

    def write(self, account: str, bucket: str, key: str, source: Path) -> None:
        if not self.left:
            raise ServiceFault("The power went.")
        self.left -= 1
        super().write(account, bucket, key, source)


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


def test_half_a_component_has_no_recipe_and_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "buckets" / "plant").mkdir(parents=True)
    place = ComponentPlace(WANTED)
    buckets = Failing(tmp_path / "buckets", {})
    there = tmp_path / "buckets" / "plant" / "components" / "plant.Bolts-3.0.0"
    there.mkdir(parents=True)  # so that its files come one by one, as with S3
    for left in range(4):
        buckets.left = left
        made = component(tmp_path / f"made{left}" / "component", f"weights {left}")
        with pytest.raises(ServiceFault, match="The power went"):
            store(made, place, buckets, ACCOUNT)
        assert not (there / "recipes").exists()

    buckets.left = 4
    store(component(tmp_path / "whole" / "component", "good"), place, buckets, ACCOUNT)

    assert (there / "artifacts/plant.Bolts/3.0.0/model.zip").read_text() == "good"
    assert (there / "recipes/plant.Bolts-3.0.0.json").is_file()


def test_a_component_without_one_of_its_files_is_completed(tmp_path: Path) -> None:
    (tmp_path / "buckets" / "plant").mkdir(parents=True)
    place = ComponentPlace(WANTED)
    buckets = FolderBuckets(tmp_path / "buckets", {})
    made = component(tmp_path / "made" / "component")
    store(made, place, buckets, ACCOUNT)
    there = tmp_path / "buckets" / "plant" / "components" / "plant.Bolts-3.0.0"
    (there / "tags.json").unlink()

    store(made, place, buckets, ACCOUNT)

    assert (there / "tags.json").read_text() == "{}"
    shutil.rmtree(made)
    with pytest.raises(InvalidRequest, match=r"s3://plant/components/plant\.Bolts-3\.0\.0 is a"):
        store(component(made, "others"), place, buckets, ACCOUNT)


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
        buckets.discard_part(ACCOUNT, "plant", place.folder)
        assert {path.name for path in plant.glob("components/*")} <= {there.name}
        shutil.rmtree(there, ignore_errors=True)
    assert killed
