"""A client's recipe is kept where it works, and rewritten for both nuclei where it doesn't."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, Dict

import pytest

from edge_agent.packaging.recipe import AGENT, AGENT_VERSIONS
from tests.packaging.migrate.originals import (
    SECRET,
    client,
    found,
    migrated,
    model,
    recipe_of,
    said,
    with_lifecycle,
)


def test_a_plain_client_needs_no_person(tmp_path: Path) -> None:
    migration = migrated(tmp_path, client())

    assert not migration.needs_a_person
    (manifest,) = recipe_of(migration)["Manifests"]
    assert manifest["Platform"] == {"os": "linux", "runtime": "*", "architecture": "aarch64"}
    assert manifest["Lifecycle"] == {
        "run": {"Script": 'exec python3 -u "{artifacts:path}/camera.py"'}
    }
    assert manifest["Artifacts"] == [
        {
            "URI": "s3://plant/camera.py",
            "Unarchive": "NONE",
            "Permission": {"Read": "OWNER", "Execute": "NONE"},
        }
    ]


def test_settings_and_policies_are_kept(tmp_path: Path) -> None:
    migration = migrated(tmp_path, client())

    ours = recipe_of(migration)
    assert ours["ComponentConfiguration"] == client()["ComponentConfiguration"]
    assert ours["ComponentVersion"] == "1.0.4"
    assert set(migration.files) == {
        "plant.Camera/recipes/plant.Camera-1.0.4.json",
        "plant.Camera/recipe.yaml",
    }


@pytest.mark.parametrize("requirement", [">=0.1.0 <2.0.0", "^1.0.0", ">=1.1.0", "1.x", "*"])
def test_a_dependency_that_takes_ours_is_kept(requirement: str, tmp_path: Path) -> None:
    migration = migrated(
        tmp_path, client(ComponentDependencies={AGENT: {"VersionRequirement": requirement}})
    )

    assert recipe_of(migration)["ComponentDependencies"] == {
        AGENT: {"VersionRequirement": requirement, "DependencyType": "HARD"}
    }
    assert "includes our agent" in said(migration, AGENT)


@pytest.mark.parametrize("requirement", ["1.1.1", "=1.1.1", "~1.1.0", "<1.2.0", "0.1.x"])
def test_a_dependency_that_ours_cant_meet_is_changed(requirement: str, tmp_path: Path) -> None:
    wanted = {AGENT: {"VersionRequirement": requirement, "DependencyType": "SOFT"}}
    migration = migrated(tmp_path, client(ComponentDependencies=wanted))

    assert not migration.needs_a_person
    assert recipe_of(migration)["ComponentDependencies"] == {
        AGENT: {"VersionRequirement": AGENT_VERSIONS, "DependencyType": "SOFT"}
    }


def test_a_dependency_that_cant_be_read_is_left_to_a_person(tmp_path: Path) -> None:
    wanted = {AGENT: {"VersionRequirement": "latest"}}
    migration = migrated(tmp_path, client(ComponentDependencies=wanted))

    assert not migration.files
    assert "'latest' can't be read" in said(migration, "plant.Camera")


def test_our_agent_under_another_name_is_depended_on(tmp_path: Path) -> None:
    migration = migrated(tmp_path, client(), agent="plant.Agent")

    assert list(recipe_of(migration)["ComponentDependencies"]) == ["plant.Agent"]


@pytest.mark.parametrize(("requirement", "status"), [(">=3.0.0", "maps"), ("~3.0.0", "person")])
def test_a_dependency_on_a_model_is_held_against_the_new_one(
    requirement: str, status: str, tmp_path: Path
) -> None:
    recipe = client(ComponentDependencies={"plant.Bolts": {"VersionRequirement": requirement}})

    migration = migrated(tmp_path, recipe, model())

    messages = [message for thing, message in found(migration, status) if thing == "plant.Bolts"]
    assert any(f"The dependency {requirement}" in message for message in messages)


def lower(value: Any, names: bool = False) -> Any:
    """The same with keys as classic takes them, too."""
    if isinstance(value, list):
        return [lower(inner) for inner in value]
    if not isinstance(value, dict):
        return value
    kept = ("DefaultConfiguration",)
    return {
        key if names else key.lower(): inner
        if key in kept
        else lower(inner, key == "ComponentDependencies")
        for key, inner in value.items()
    }


def test_keys_of_any_case_become_the_references(tmp_path: Path) -> None:
    recipe = with_lifecycle({"Install": {"Script": "true", "Timeout": 60}, "Run": {"Script": "a"}})
    (tmp_path / "upper").mkdir()
    expected = recipe_of(migrated(tmp_path / "upper", recipe))

    migration = migrated(tmp_path, lower(recipe))

    assert recipe_of(migration) == expected
    assert "componentname" in said(migration, "plant.Camera")


@pytest.mark.parametrize(
    ("platform", "architectures"),
    [
        ({"os": "linux", "architecture": "amd64"}, ["amd64"]),
        ({"os": "linux", "architecture": "x86_64"}, ["amd64"]),
        ({"os": "/linux|windows/", "architecture": "/amd64|aarch64/"}, ["amd64", "aarch64"]),
        ({"os": "*", "architecture": "*", "runtime": "*"}, ["amd64", "aarch64"]),
        ({"os": "all"}, ["amd64", "aarch64"]),
        ({}, ["amd64", "aarch64"]),
    ],
)
def test_a_platform_becomes_one_manifest_an_architecture(
    platform: Dict[str, str], architectures: Any, tmp_path: Path
) -> None:
    recipe = client()
    recipe["Manifests"][0]["Platform"] = platform

    ours = recipe_of(migrated(tmp_path, recipe))["Manifests"]

    assert [manifest["Platform"]["architecture"] for manifest in ours] == architectures


@pytest.mark.parametrize("platform", [{"os": "windows"}, {"os": "linux", "architecture": "arm"}])
def test_a_manifest_for_what_the_agent_doesnt_run_on_is_left_out(
    platform: Dict[str, str], tmp_path: Path
) -> None:
    recipe = client()
    recipe["Manifests"].append({**copy.deepcopy(recipe["Manifests"][0]), "Platform": platform})

    migration = migrated(tmp_path, recipe)

    assert len(recipe_of(migration)["Manifests"]) == 1
    assert "Left out" in said(migration, "plant.Camera Manifests.1")


@pytest.mark.parametrize("phase", ["Shutdown", "Recover", "Bootstrap"])
def test_a_step_that_lite_leaves_out_is_named(phase: str, tmp_path: Path) -> None:
    lifecycle = {"Run": {"Script": "a"}, phase: {"Script": "b", "Timeout": 5}}
    migration = migrated(tmp_path, with_lifecycle(lifecycle))

    (todo,) = found(migration, "person")
    assert todo[0] == f"plant.Camera Manifests.0 {phase.lower()}"
    assert list(recipe_of(migration)["Manifests"][0]["Lifecycle"]) == ["run"]


@pytest.mark.parametrize(
    ("lifecycle", "sentence"),
    [
        ({"Startup": "a", "Shutdown": "b"}, "has startup"),
        ({"Install": "a"}, "has no run"),
        ({"Run": {"Script": ["a", "b"]}}, "must be text"),
        ({"Run": "a", "Install": {"Script": "b", "Timeout": "soon"}}, "whole number of seconds"),
        ({"Run": 'a "{configuration:/Gone}"'}, "run inserts /Gone, which has no default"),
        ({"Run": {"Script": "a", "Setenv": "B=1"}}, "Setenv must be an object"),
    ],
)
def test_a_recipe_that_cant_be_rewritten_isnt_written(
    lifecycle: Dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    migration = migrated(tmp_path, with_lifecycle(lifecycle))

    assert not migration.files
    assert "No recipe is written" in said(migration, "plant.Camera")
    assert sentence in said(migration, "plant.Camera")


def test_shell_logic_moves_into_files_of_the_component(tmp_path: Path) -> None:
    recipe = with_lifecycle(
        {
            "Setenv": {"MODE": "fast"},
            "Install": {"Script": "cd {work:path}\npip install x", "Timeout": "600"},
            "Run": {"Script": "python3 a.py --topic {configuration:/Topic}", "Timeout": 9},
        }
    )
    migration = migrated(tmp_path, recipe)

    (manifest,) = recipe_of(migration)["Manifests"]
    assert manifest["Lifecycle"] == {
        "install": {
            "Script": 'exec sh "{artifacts:path}/install.sh" "{work:path}"', "Timeout": 600,
        },
        "run": {"Script": 'exec sh "{artifacts:path}/run.sh" "{configuration:/Topic}"'},
    }  # fmt: skip
    place = "plant.Camera/artifacts/plant.Camera/1.0.4"
    assert migration.files[f"{place}/install.sh"] == (
        b'export MODE="fast"\ncd ${1}\npip install x\n'
    )
    assert [artifact["URI"] for artifact in manifest["Artifacts"]] == [
        "s3://plant/camera.py",
        "s3://BUCKET_NAME/plant.Camera/1.0.4/install.sh",
        "s3://BUCKET_NAME/plant.Camera/1.0.4/run.sh",
    ]
    assert "ends a service" in said(migration, "plant.Camera Manifests.0 run")


def test_two_manifests_with_other_scripts_have_files_of_their_own(tmp_path: Path) -> None:
    recipe = with_lifecycle({"Run": "a; b"})
    other = copy.deepcopy(recipe["Manifests"][0])
    other["Platform"]["architecture"] = "amd64"
    other["Lifecycle"]["Run"] = "c; d"
    recipe["Manifests"] += [other, copy.deepcopy(recipe["Manifests"][0])]

    migration = migrated(tmp_path, recipe)

    scripts = [each["Lifecycle"]["run"]["Script"] for each in recipe_of(migration)["Manifests"]]
    assert [script.split("/")[-1] for script in scripts] == ['run.sh"', 'run-2.sh"', 'run.sh"']


def test_root_is_not_asked_for_in_the_recipe(tmp_path: Path) -> None:
    recipe = with_lifecycle({"Run": {"Script": "a", "RequiresPrivilege": "true"}})
    migration = migrated(tmp_path, recipe)

    assert "posixUser root" in said(migration, "plant.Camera Manifests.0 run")
    assert "RequiresPrivilege" not in str(recipe_of(migration))


def test_a_question_mark_in_a_policy_is_escaped(tmp_path: Path) -> None:
    recipe = client()
    control = recipe["ComponentConfiguration"]["DefaultConfiguration"]["accessControl"]
    policy = control["aws.greengrass.ipc.mqttproxy"]["plant.Camera:mqttproxy:1"]
    policy["resources"] = ["line?/a", "line${?}/b"]

    migration = migrated(tmp_path, recipe)

    assert '"line${?}/a"' in migration.files[min(migration.files)].decode() or (
        "line${?}/a" in str(recipe_of(migration))
    )
    assert "${?}" in said(migration, "plant.Camera accessControl")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"ComponentType": "aws.greengrass.lambda"}, "type aws.greengrass.generic"),
        ({"Lifecycle": {"run": "a"}}, "a Lifecycle in each manifest"),
        ({"ComponentVersion": "1.0"}, "isn't a version such as"),
        ({"RecipeFormatVersion": "2019-01-01"}, "RecipeFormatVersion"),
    ],
)
def test_a_recipe_of_another_kind_isnt_written(
    changes: Dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    migration = migrated(tmp_path, client(**changes))

    assert not migration.files
    assert sentence in said(migration, "plant.Camera")


def test_unknown_keys_are_named_and_no_value_is(tmp_path: Path) -> None:
    recipe = client(Password=SECRET)
    recipe["Manifests"][0]["Artifacts"][0]["URI"] = f"https://user:{SECRET}@host/a"

    migration = migrated(tmp_path, recipe)

    assert "plant.Camera Password" in [thing for thing, _ in found(migration, "person")]
    assert "URI" in said(migration, "plant.Camera")
    assert SECRET not in str(migration.to_json())
