"""Deployments go on with our agent and new models; what they can't hold is named."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any, Dict, List

import pytest

from edge_agent import __version__
from edge_agent.packaging.recipe import AGENT
from tests.packaging.migrate.originals import (
    GROUP,
    SECRET,
    client,
    commands,
    deployment,
    deployment_of,
    found,
    job,
    migrated,
    model,
    said,
)


def test_a_deployment_and_its_recipes_go_on_with_ours(tmp_path: Path) -> None:
    migration = migrated(tmp_path, deployment(), client(), model())

    assert deployment_of(migration) == {
        "targetArn": GROUP,
        "deploymentName": "Line 4",
        "deploymentPolicies": deployment()["deploymentPolicies"],
        "tags": {"line": "4"},
        "components": {
            "aws.greengrass.Nucleus": {"componentVersion": "2.9.3"},
            AGENT: {
                "componentVersion": __version__,
                "configurationUpdate": {"merge": '{"Socket": "unix:///run/l4v.sock"}'},
            },
            "plant.Bolts": {
                "componentVersion": "4.0.0",
                "configurationUpdate": {"merge": '{"Autostart": true}'},
            },
            "plant.Camera": {
                "componentVersion": "1.0.4",
                "configurationUpdate": {"merge": '{"Topic": "line5"}', "reset": ["/Device"]},
                "runWith": {"posixUser": "ggc_user:video"},
            },
        },
    }
    assert commands(migration)[-1] == f"edge-agent deploy --from {tmp_path}/out/" + (
        "original0.deployment.json"
    )


def test_a_component_without_a_recipe_is_left_to_a_person(tmp_path: Path) -> None:
    migration = migrated(tmp_path, deployment())

    components = deployment_of(migration)["components"]
    assert components["plant.Camera"]["componentVersion"] == "1.0.3"
    assert "wasn't checked" in said(migration, "plant.Camera")
    assert components["plant.Bolts"]["componentVersion"] == "4.0.0"  # Autostart tells
    assert "give its recipe" in said(migration, "plant.Bolts")
    assert "aws.greengrass.Nucleus" in [thing for thing, _ in found(migration, "maps")]


def test_what_became_of_a_recipe_that_was_given_is_told(tmp_path: Path) -> None:
    camera = client(Manifests=[])
    bolts = model(ComponentVersion="3.0")
    migration = migrated(tmp_path, deployment(), camera, bolts)

    components = deployment_of(migration)["components"]
    for name, old in (("plant.Camera", "1.0.3"), ("plant.Bolts", "3.0.0")):
        assert components[name] == deployment()["components"][name]
        assert said(migration, name).endswith(
            f"Its recipe couldn't be migrated, see above; version {old} needs the old agent."
        )
        assert "wasn't checked" not in said(migration, name)
        assert "give its recipe" not in said(migration, name)


def test_a_packaging_job_tells_of_a_model_too(tmp_path: Path) -> None:
    migration = migrated(tmp_path, deployment(), job())

    assert deployment_of(migration)["components"]["plant.Bolts"]["componentVersion"] == "3.0.0"


def test_samples_under_awss_name_arent_awss(tmp_path: Path) -> None:
    components = {"aws.greengrass.labs.Pipeline": {"componentVersion": "1.0.0"}}
    migration = migrated(tmp_path, deployment(components=components))

    assert "wasn't checked" in said(migration, "aws.greengrass.labs.Pipeline")


def test_our_agent_under_another_name_takes_the_place(tmp_path: Path) -> None:
    migration = migrated(tmp_path, deployment(), agent="plant.Agent")

    components = deployment_of(migration)["components"]
    assert AGENT not in components
    assert components["plant.Agent"]["componentVersion"] == __version__


@pytest.mark.parametrize("local", [False, True])
def test_the_original_agent_is_taken_off_for_ours_of_another_name(
    tmp_path: Path, local: bool
) -> None:
    original = {"componentsToMerge": {AGENT: "1.1.1"}} if local else deployment()
    others = migrated(tmp_path, original, agent="plant.Agent", target=GROUP)
    ours = migrated(tmp_path, original, target=GROUP)
    without = {"components": {"plant.Camera": {"componentVersion": "1.0.3"}}}
    none = migrated(tmp_path, without, agent="plant.Agent", target=GROUP)

    deploy = f"edge-agent deploy --from {tmp_path}/out/original0.deployment.json"
    assert commands(others)[-1] == f"{deploy} --remove {AGENT}"
    assert commands(ours)[-1] == commands(none)[-1] == deploy


def test_two_agents_in_one_deployment_are_left_to_a_person(tmp_path: Path) -> None:
    components = {name: {"componentVersion": "1.2.0"} for name in ("plant.Agent", AGENT)}
    migration = migrated(tmp_path, deployment(components=components), agent="plant.Agent")

    assert not migration.files
    assert "take the one out" in said(migration, "original0")


def with_agent(merge: Any, reset: List[str]) -> Dict[str, Any]:
    update = {"merge": merge if isinstance(merge, str) else json.dumps(merge), "reset": reset}
    component = {"componentVersion": "1.2.0", "configurationUpdate": update}
    return deployment(components={AGENT: component})


def test_settings_the_agent_doesnt_have_are_named_without_values(tmp_path: Path) -> None:
    given = {"Socket": "/run/a.sock", "Token": SECRET, "log_level": SECRET, "accessControl": {}}
    migration = migrated(tmp_path, with_agent(given, ["/Socket", "/Token", ""]))

    (component,) = deployment_of(migration)["components"].values()
    assert component["configurationUpdate"] == {
        "merge": '{"Socket": "unix:///run/a.sock"}',
        "reset": ["/Socket", ""],
    }
    things = [thing for thing, _ in found(migration, "person")]
    assert things == [f"{AGENT} reset /Token", f"{AGENT} Token", f"{AGENT} log_level"]
    assert SECRET not in str(migration.to_json())


def test_settings_of_ours_stay(tmp_path: Path) -> None:
    given = {"log_level": "DEBUG", "results": {"lines": "-"}}
    migration = migrated(tmp_path, with_agent(given, []))

    (component,) = deployment_of(migration)["components"].values()
    assert json.loads(component["configurationUpdate"]["merge"]) == given


@pytest.mark.parametrize("address", ["tcp://0.0.0.0:50051", "unix://relative", 5, None])
def test_a_socket_ours_cant_have_is_left_out(address: Any, tmp_path: Path) -> None:
    migration = migrated(tmp_path, with_agent({"Socket": address}, []))

    (component,) = deployment_of(migration)["components"].values()
    assert "configurationUpdate" not in component
    assert "server.socket" in str(found(migration, "person"))


def local(**changes: Any) -> Dict[str, Any]:
    return {
        "recipeDirectoryPath": "/home/a/recipes",
        "componentsToMerge": {AGENT: "1.1.1", "plant.Bolts": "3.0.0"},
        "componentsToRemove": ["plant.Old"],
        "componentToConfiguration": {
            AGENT: {"MERGE": {"Socket": "unix:///run/l4v.sock"}, "RESET": ["/Socket"]},
            "plant.Gone": {"MERGE": {"a": 1}},
        },
        "componentToRunWithInfo": {"plant.Bolts": {"posixUser": "root"}},
        **changes,
    }


def test_a_local_deployment_becomes_one_of_the_cloud(tmp_path: Path) -> None:
    migration = migrated(tmp_path, local(), model(), target=GROUP)

    assert deployment_of(migration) == {
        "targetArn": GROUP,
        "components": {
            AGENT: {
                "componentVersion": __version__,
                "configurationUpdate": {
                    "merge": '{"Socket": "unix:///run/l4v.sock"}', "reset": ["/Socket"],
                },
            },
            "plant.Bolts": {"componentVersion": "4.0.0", "runWith": {"posixUser": "root"}},
        },
    }  # fmt: skip
    assert "--remove plant.Old" in said(migration, "plant.Old")
    assert "its version isn't named" in said(migration, "plant.Gone configuration")


def test_a_local_deployment_without_a_target_asks_for_one(tmp_path: Path) -> None:
    migration = migrated(tmp_path, local())

    assert not migration.files
    assert "--target-arn" in said(migration, "original0")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"targetArn": "Line4"}, "targetArn must be the ARN of a thing or a group, such as arn:"),
        ({"components": {}}, "names no component"),
        ({"components": {"a": 1}}, "components.a must be an object"),
        ({"components": {"a": {}}}, "components.a.componentVersion must be a version such as"),
        ({"components": {"a": {"componentVersion": "new"}}}, "must be a version such as 1.0.0"),
        ({"components": {"": {"componentVersion": "1"}}}, "a key that is empty"),
        ({"components": {AGENT: {"configurationUpdate": {"merge": "{"}}}}, "text of a JSON object"),
        ({"components": {AGENT: {"configurationUpdate": {"merge": {}}}}}, ""),
        ({"components": {AGENT: {"configurationUpdate": "a"}}}, "must be an object"),
        ({"components": {AGENT: {"configurationUpdate": {"reset": "a"}}}}, "reset must be a list"),
        ({"components": {AGENT: {"runWith": {"posixUsers": "a"}}}}, "unknown key"),
        (
            {"components": {"a": {"componentVersion": "1.0.0", "runWith": {"posixUser": ""}}}},
            "posixUser must be text",
        ),
        ({"deploymentPolicies": {"failureHandlingPolicy": "PANIC"}}, "ROLLBACK, DO_NOTHING"),
        ({"iotJobConfiguration": {"abortConfig": {"criteriaList": []}}}, "isn't empty"),
        ({"iotJobConfiguration": {"abortConfig": {}}}, "criteriaList is missing"),
        ({"tags": {"a": 1}}, "tags.a must be text"),
        ({"deploymentName": "a" * 257}, "deploymentName must be text of 1 to 256"),
    ],
)
def test_what_the_service_would_refuse_isnt_written(
    changes: Dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    migration = migrated(tmp_path, deployment(**changes))

    if sentence:
        assert not migration.files
    assert sentence in said(migration, "original0")


def test_a_whole_rollout_is_kept(tmp_path: Path) -> None:
    rollout = {
        "jobExecutionsRolloutConfig": {
            "exponentialRate": {
                "baseRatePerMinute": 5,
                "incrementFactor": 1.5,
                "rateIncreaseCriteria": {"numberOfSucceededThings": 10},
            },
            "maximumPerMinute": 50,
        },
        "abortConfig": {
            "criteriaList": [
                {
                    "failureType": "FAILED",
                    "action": "CANCEL",
                    "thresholdPercentage": 20.5,
                    "minNumberOfExecutedThings": 5,
                }
            ]
        },
        "timeoutConfig": {"inProgressTimeoutInMinutes": 30},
    }
    given = copy.deepcopy(rollout)
    migration = migrated(tmp_path, deployment(iotJobConfiguration=given))

    assert deployment_of(migration)["iotJobConfiguration"] == rollout


def test_an_unknown_key_is_named(tmp_path: Path) -> None:
    migration = migrated(tmp_path, deployment(parentTargetArn=GROUP))

    assert "Left out" in said(migration, "parentTargetArn")
    assert "parentTargetArn" not in deployment_of(migration)


def test_settings_may_be_an_object_and_keys_of_any_case(tmp_path: Path) -> None:
    expected = deployment_of(migrated(tmp_path, deployment(), client(), model()))
    given = deployment()
    for component in given["components"].values():
        update = component.pop("configurationUpdate", {})
        if update:
            settings = json.loads(update["merge"])
            component["ConfigurationUpdate"] = {"MERGE": settings, "reset": update.get("reset")}
    given = {key.upper(): value for key, value in given.items()}

    migration = migrated(tmp_path, given, client(), model())

    assert deployment_of(migration) == expected
    told = [finding.thing for finding in migration.findings]
    assert not {key.upper() for key in deployment()} & set(told)


def test_a_local_deployment_may_have_keys_of_any_case_and_settings_as_text(tmp_path: Path) -> None:
    expected = deployment_of(migrated(tmp_path, local(), model(), target=GROUP))
    given = local()
    agents = given["componentToConfiguration"][AGENT]
    agents["MERGE"] = json.dumps(agents["MERGE"])
    given["componentToRunWithInfo"] = {"plant.Bolts": {"PosixUser": "root"}}
    given = {key[0].upper() + key[1:]: value for key, value in given.items()}

    assert deployment_of(migrated(tmp_path, given, model(), target=GROUP)) == expected


def test_all_that_is_wrong_with_a_deployment_is_told_at_once(tmp_path: Path) -> None:
    broken = {"componentVersion": "one", "configurationUpdate": {"merge": "{", "reset": "/a"}}
    components = {"plant.A": broken, "plant.B": 5, "plant.C": {"componentVersion": "1"}}
    given = deployment(targetArn=None, components=components, tags={"line": 4})

    message = said(migrated(tmp_path, given), "original0")

    for place in (
        "has no target", "plant.A: configurationUpdate.merge", "components.plant.B must be an",
        "components.plant.A.componentVersion", "components.plant.A.configurationUpdate.reset",
        "components.plant.C.componentVersion", "tags.line",
    ):  # fmt: skip
        assert place in message
