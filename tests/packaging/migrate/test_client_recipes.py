"""A client's recipe is kept where it works, and rewritten for both nuclei where it doesn't."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, Dict

import pytest

from edge_agent.errors import InvalidConfiguration
from edge_agent.packaging.migrate.migrate_command import migrate
from edge_agent.packaging.migrate.migration import Migration
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
        AGENT: {"VersionRequirement": requirement, "DependencyType": "SOFT"}
    }
    assert "includes our agent" in said(migration, AGENT)
    assert "is SOFT now" in said(migration, AGENT)  # lite stops what depends HARD, for good


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
        ({"ComponentType": "aws.greengrass.plugin"}, "type aws.greengrass.generic"),
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


@pytest.mark.parametrize("empty", [{}, None, [], ""])
@pytest.mark.parametrize("key", ["Lifecycle", "lifecycle"])
def test_an_empty_lifecycle_beside_the_manifests_says_nothing(
    empty: Any, key: str, tmp_path: Path
) -> None:
    migration = migrated(tmp_path, client(**{key: empty}))

    assert not migration.needs_a_person
    assert recipe_of(migration)["Manifests"][0]["Lifecycle"].keys() == {"run"}


STEPS = {"Run": {"script": "program --fast"}, "Install": "true"}


@pytest.mark.parametrize(
    "common",
    [
        STEPS,
        {"line": STEPS, "all": {"Run": "other"}},
        {"other": {"Run": "other"}, "all": STEPS},
        {"Run": {"line": "program --fast", "other": "other"}, "install": {"all": "true"}},
        {"Run": {"script": {"line": "program --fast", "all": "other"}}, "Install": "true"},
    ],
)
def test_a_lifecycle_of_the_whole_recipe_goes_into_the_manifests_that_select_it(
    common: Dict[str, Any], tmp_path: Path
) -> None:
    recipe = with_lifecycle({}, Lifecycle=common)
    (first,) = recipe["Manifests"]
    other = {"Selections": ["other"], "Lifecycle": {"run": "itself"}, "Platform": {"os": "linux"}}
    recipe["Manifests"] = [{**first, "Selections": ["line"]}, other]

    migration = migrated(tmp_path, recipe)

    ours = recipe_of(migration)["Manifests"]
    assert ours[0]["Lifecycle"] == {
        "install": {"Script": "exec true", "Timeout": 120},
        "run": {"Script": "exec program --fast"},
    }
    assert ours[1]["Lifecycle"] == {"run": {"Script": "exec itself"}}
    assert "part of the recipe's Lifecycle" in said(migration, "plant.Camera Manifests.0")


@pytest.mark.parametrize("image", ["python:3.9", "public.ecr.aws/a/b:1", "DOCKER:registry:5000/a"])
def test_an_image_is_left_to_docker(image: str, tmp_path: Path) -> None:
    uri = image if image.startswith("DOCKER:") else f"docker:{image}"
    recipe = with_lifecycle({"run": "docker run --rm a"})
    recipe["Manifests"][0]["Artifacts"].append({"Uri": uri})
    recipe["ComponentDependencies"]["aws.greengrass.DockerApplicationManager"] = None

    migration = migrated(tmp_path, recipe)

    assert not migration.needs_a_person
    ours = recipe_of(migration)
    assert [one["URI"] for one in ours["Manifests"][0]["Artifacts"]] == ["s3://plant/camera.py"]
    assert list(ours["ComponentDependencies"]) == [AGENT]
    assert "docker run fetches" in said(migration, "plant.Camera Manifests.0.Artifacts.1")


def test_an_image_that_needs_a_login_and_a_file_that_gdk_places_need_a_person(
    tmp_path: Path,
) -> None:
    recipe = client()
    recipe["Manifests"][0]["Artifacts"] = [
        {"URI": "docker:123456789012.dkr.ecr.eu-west-1.amazonaws.com/camera:1"},
        {"URI": "s3://BUCKET_NAME/plant.Camera/1.0.3/camera.py"},
        {"URI": "S3://plant/b.py"},
    ]

    migration = migrated(tmp_path, recipe)

    assert [message.split()[0] for _, message in found(migration, "person")] == ["Left", "Copy"]
    assert [one["URI"] for one in recipe_of(migration)["Manifests"][0]["Artifacts"]] == [
        "s3://BUCKET_NAME/plant.Camera/1.0.4/camera.py",
        "s3://plant/b.py",
    ]


@pytest.mark.parametrize(
    ("uri", "sentence"),
    [
        ("greengrass:UNIQUE/camera.py", "Manifests.0.Artifacts.0: URI begins with greengrass:;"),
        ("https://plant/camera.py", "URI begins with https:; both nuclei need s3://BUCKET/FILE"),
        ("camera.py", "URI has no scheme"),
        (None, "URI is missing"),
        ("s3://plant", "URI begins with s3:"),
    ],
)
def test_a_file_that_a_nucleus_cant_fetch_is_named(uri: Any, sentence: str, tmp_path: Path) -> None:
    recipe = client()
    recipe["Manifests"][0]["Artifacts"] = [{"URI": uri}]

    assert sentence in said(migrated(tmp_path, recipe), "plant.Camera")


def test_all_that_must_be_changed_is_told_at_once(tmp_path: Path) -> None:
    recipe = with_lifecycle(
        {"Startup": "a", "Install": {"Script": ["b"]}, "Run": {"Script": "c", "Setenv": "D=1"}},
        ComponentVersion="latest",
        ComponentType="aws.greengrass.lambda",
        ComponentDescription="d" * 257,
        ComponentDependencies={
            AGENT: {"VersionRequirement": "newest"},
            "plant.Other": {"DependencyType": "FIRM"},
        },
    )
    recipe["Manifests"][0]["Artifacts"] = [{"URI": "https://plant/camera.py"}]

    migration = migrated(tmp_path, recipe)

    assert not migration.files
    message = said(migration, "plant.Camera")
    for place in (
        "ComponentType: only", "ComponentVersion: 'latest'", f"ComponentDependencies.{AGENT}: ",
        "ComponentDependencies.plant.Other: DependencyType", "Manifests.0 has startup",
        "Manifests.0.Lifecycle.install: Script", "Manifests.0.Lifecycle.run: Setenv",
        "Manifests.0.Artifacts.0: URI", "ComponentDescription: ",
    ):  # fmt: skip
        assert place in message


def test_wrong_forms_are_told_at_once_with_what_came(tmp_path: Path) -> None:
    recipe = client(
        ComponentConfiguration="a", ComponentDependencies=[1], Lifecycle=["x"],
        Manifests=[5, {"Lifecycle": {"run": True}, "Artifacts": {}}],
    )  # fmt: skip

    with pytest.raises(InvalidConfiguration) as caught:
        migrated(tmp_path, recipe)

    assert str(caught.value) == (
        f"{tmp_path / 'original0.json'}: ComponentConfiguration must be an object, not text. "
        "ComponentDependencies must be an object, not a list. Manifests.0 must be an object, not a "
        "number. Manifests.1.Lifecycle.run must be an object with Script, or a script, not true or "
        "false. Manifests.1.Artifacts must be a list, not an object. Lifecycle must be an object, "
        "not a list."
    )


@pytest.mark.parametrize(
    "settings", [None, {"DefaultConfiguration": None}, {"defaultconfiguration": {}}]
)
def test_a_component_without_settings_needs_none(settings: Any, tmp_path: Path) -> None:
    ours = recipe_of(migrated(tmp_path, client(ComponentConfiguration=settings)))

    assert ours["ComponentConfiguration"] == {"DefaultConfiguration": {}}


@pytest.mark.parametrize("version", ["1.0.3-beta.1", "1.0.3+build.7"])
def test_any_semantic_version_has_a_next_one(version: str, tmp_path: Path) -> None:
    assert (
        recipe_of(migrated(tmp_path, client(ComponentVersion=version)))["ComponentVersion"]
        == "1.0.4"
    )


def test_files_that_cant_be_read_are_all_named(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("a: [")
    (tmp_path / "b.json").write_text('{"b": 1}')

    with pytest.raises(
        InvalidConfiguration, match=r"a\.yaml can't be read(.|\n)*b\.json: It can't"
    ):
        migrate([tmp_path / "a.yaml", tmp_path / "b.json"], Migration(tmp_path / "out", AGENT))
