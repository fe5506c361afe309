"""Models of the original are made anew, by commands with their values filled in."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any, Dict

import pytest

from edge_agent.cli import parse
from edge_agent.packaging import target
from tests.packaging.migrate.originals import (
    SECRET,
    client,
    commands,
    found,
    job,
    migrated,
    model,
    said,
)

OLD = '{"gpu-code": "sm_72", "trt-ver": "7.1.3", "cuda-ver": "10.2"}'


def test_a_model_component_is_trained_and_packaged_under_its_name(tmp_path: Path) -> None:
    migration = migrated(tmp_path, model())

    assert commands(migration) == [
        "edge-agent train IMAGES --out plant.Bolts-4 --name plant.Bolts --version 4",
        "edge-agent package plant.Bolts-4 --target-platform os=LINUX,arch=ARM64 "
        "--component-name plant.Bolts --component-version 4.0.0 --out plant.Bolts-4.0.0",
        "edge-agent publish plant.Bolts-4.0.0 --bucket BUCKET",
    ]
    assert "can't be carried over" in said(migration, "plant.Bolts")
    assert not migration.files


@pytest.mark.parametrize("given", [True, "true", "True"])
def test_autostart_becomes_our_components(given: Any, tmp_path: Path) -> None:
    settings = {"DefaultConfiguration": {"autostart": given}}
    migration = migrated(tmp_path, model(ComponentConfiguration=settings))

    assert json.loads(migration.files["plant.Bolts.configuration.json"]) == {"Autostart": True}


def test_review_limits_are_no_threshold(tmp_path: Path) -> None:
    limits = {"ModelConfidenceThresholds": {"NormalThreshold": 0.1, "AnomalyThreshold": 0.9}}
    migration = migrated(tmp_path, model(ComponentConfiguration={"DefaultConfiguration": limits}))

    assert "models.thresholds.plant.Bolts" in said(
        migration, "plant.Bolts ModelConfidenceThresholds"
    )
    assert not migration.files


def test_a_setting_that_isnt_known_is_named_without_its_value(tmp_path: Path) -> None:
    settings = {"DefaultConfiguration": {"Autostart": SECRET, "Token": SECRET}}
    migration = migrated(tmp_path, model(ComponentConfiguration=settings))

    things = [thing for thing, _ in found(migration, "person")]
    assert {"plant.Bolts Autostart", "plant.Bolts Token"} <= set(things)
    assert SECRET not in str(migration.to_json())


@pytest.mark.parametrize(
    "changes",
    [
        {"ComponentPublisher": "Plant"},
        {"Manifests": []},
        {"Manifests": [], "ComponentConfiguration": {}},
    ],
)
def test_a_model_is_known_by_any_of_its_marks(changes: Dict[str, Any], tmp_path: Path) -> None:
    assert "can't be carried over" in said(migrated(tmp_path, model(**changes)), "plant.Bolts")


def test_a_client_that_names_its_model_is_no_model(tmp_path: Path) -> None:
    recipe = client(ComponentConfiguration={"DefaultConfiguration": {"ModelName": "plant.Bolts"}})

    assert not migrated(tmp_path, recipe).needs_a_person


def test_the_architecture_is_left_open_when_the_recipe_names_none(tmp_path: Path) -> None:
    migration = migrated(tmp_path, model(Manifests=[{"Lifecycle": {}}]))

    assert "os=LINUX,arch=ARCH" in commands(migration)[1]


def test_a_job_becomes_commands_that_ours_take(tmp_path: Path) -> None:
    lines = commands(migrated(tmp_path, job()))

    assert lines[0] == "edge-agent train IMAGES --out bolts-3 --name bolts --version 3"
    given = parse(shlex.split(lines[1])[1:])
    assert (given.component_name, given.component_version) == ("plant.Bolts", "3.0.0")
    assert given.tag == ["line=4 left"]
    assert given.description == "Bolts & nuts"
    made = target.parse(given.target_device, given.target_platform, given.compiler_options)
    assert made.architecture == "amd64"
    assert lines[2] == (
        "edge-agent publish plant.Bolts-3.0.0 --bucket plant-bucket --prefix components/"
    )


@pytest.mark.parametrize(
    "where",
    [
        {"TargetDevice": "jetson_xavier"},
        {"TargetPlatform": {"Os": "LINUX", "Arch": "ARM64", "Accelerator": "NVIDIA"}},
    ],
)
def test_an_old_tensorrt_is_replaced_and_said(where: Dict[str, Any], tmp_path: Path) -> None:
    migration = migrated(tmp_path, job(OLD, **where))

    given = parse(shlex.split(commands(migration)[1])[1:])
    assert json.loads(given.compiler_options) == {
        "gpu-code": "sm_72", "trt-ver": "8.5.2", "cuda-ver": "11.4",
    }  # fmt: skip
    target.parse(given.target_device, given.target_platform, given.compiler_options)
    message = said(migration, "packaging job of plant.Bolts CompilerOptions")
    assert "TensorRT 7.1.3 is too old" in message


def test_a_device_without_a_newer_tensorrt_is_named(tmp_path: Path) -> None:
    migration = migrated(tmp_path, job(OLD.replace("72", "53"), TargetDevice="jetson_xavier"))

    message = said(migration, "packaging job of plant.Bolts CompilerOptions")
    assert "Jetson Nano and TX1 have no JetPack 5" in message


def test_a_recent_tensorrt_stays(tmp_path: Path) -> None:
    options = '{"gpu-code": "sm_87", "trt-ver": "10.3.0", "cuda-ver": "12.6"}'
    where = {"TargetPlatform": {"Os": "LINUX", "Arch": "ARM64", "Accelerator": "NVIDIA"}}

    assert f"'{options}'" in commands(migrated(tmp_path, job(options, **where)))[1]


@pytest.mark.parametrize(
    ("options", "where", "sentence"),
    [
        ("{", {}, "the text of a JSON object"),
        ('{"turbo": 1}', {}, "unknown option 'turbo'"),
        (None, {"TargetDevice": "jetson_mars"}, "jetson_mars isn't known"),
        (None, {"Nothing": 1}, "No target is named"),
        ('{"trt-ver": "7.1.3"', {"TargetDevice": "jetson_xavier"}, "the text of a JSON"),
    ],
)
def test_a_job_that_cant_be_read_is_left_to_a_person(
    options: Any, where: Dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    migration = migrated(tmp_path, job(options, **where))

    assert sentence in said(migration, "packaging job of plant.Bolts")
    assert not commands(migration)


def test_a_request_to_start_a_job_is_read_too(tmp_path: Path) -> None:
    answer = job()["ModelPackagingDescription"]
    request = {
        "ProjectName": "bolts",
        "ModelVersion": "2",
        "Configuration": answer["ModelPackagingConfiguration"],
    }

    assert commands(migrated(tmp_path, request)) == commands(migrated(tmp_path, job()))
