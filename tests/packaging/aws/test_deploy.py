"""`edge-agent deploy`: requests by botocore's own validation, devices by scripted answers."""

from __future__ import annotations

import json
import socket
import sys
from pathlib import Path
from typing import Any, Dict

import pytest

from edge_agent.cli import main
from tests.packaging.aws.cloud import GROUP, JOB, THEN, THING, Cloud, folder

BOLTS = {"plant.Bolts": {"componentVersion": "1.0.0"}}
CURRENT: Dict[str, Any] = {
    "deploymentName": "line 4",
    "components": {
        "aws.iot.lookoutvision.EdgeAgent": {
            "componentVersion": "1.3.0",
            "configurationUpdate": {
                "merge": '{"models": {"thresholds": {"bolts": 0.4, "nuts": 0.5}}, "log_level": 1}',
                "reset": ["/server"],
            },
            "runWith": {"posixUser": "ggc_user"},
        },
        "plant.Nuts": {"componentVersion": "2.0.0"},
    },
    "deploymentPolicies": {"failureHandlingPolicy": "DO_NOTHING"},
    "iotJobConfiguration": {"timeoutConfig": {"inProgressTimeoutInMinutes": 30}},
    "tags": {"line": "4", "aws:cloudformation:stack-name": "s"},
}
AGENT = "aws.iot.lookoutvision.EdgeAgent"


def deploy(*words: Any, to: str = "--thing") -> int:
    name = "edge-1" if to == "--thing" else "line-4"
    return main(["deploy", to, name, *map(str, words)])


def planned(cloud: Cloud, capsys: pytest.CaptureFixture[str], *words: Any) -> Dict[str, Any]:
    """The request that --dry-run prints for a change of CURRENT."""
    cloud.deployed(THING, CURRENT)
    assert deploy(*words, "--dry-run") == 0
    request: Dict[str, Any] = json.loads(capsys.readouterr().out)
    return request


def test_a_first_deployment_to_a_thing_is_followed_to_its_end(
    cloud: Cloud, capsys: pytest.CaptureFixture[str]
) -> None:
    cloud.deployed(THING, None)
    cloud.deploys({"targetArn": THING, "components": BOLTS})
    cloud.refuses(
        "list_effective_deployments",
        {"coreDeviceThingName": "edge-1"},
        "ResourceNotFoundException",  # it has never called home
    )
    cloud.effective("edge-1", None)
    cloud.effective("edge-1", "QUEUED")
    cloud.effective("edge-1", "IN_PROGRESS")
    cloud.effective("edge-1", "IN_PROGRESS")
    cloud.effective("edge-1", "COMPLETED", reason="SUCCESSFUL")

    assert deploy("--component", "plant.Bolts=1.0.0") == 0

    assert capsys.readouterr().out.splitlines() == [
        f"To {THING}, its first deployment:",
        "  + plant.Bolts 1.0.0",
        "Deployment new is created.",
        "edge-1 is without an answer",
        "edge-1 is QUEUED",
        "edge-1 is IN_PROGRESS",
        "edge-1 is COMPLETED",
        "edge-1 COMPLETED: SUCCESSFUL",
    ]


def test_what_is_not_named_stays(
    cloud: Cloud, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = folder(tmp_path / "c")
    request = planned(cloud, capsys, "--folder", made, "--component", "plant.Nuts=2.1.0")
    assert request == {
        "targetArn": THING,
        "deploymentName": "line 4",
        "components": {
            AGENT: CURRENT["components"][AGENT],
            "plant.Nuts": {"componentVersion": "2.1.0"},
            **BOLTS,
        },
        "deploymentPolicies": CURRENT["deploymentPolicies"],
        "iotJobConfiguration": CURRENT["iotJobConfiguration"],
        "tags": {"line": "4"},
    }


def test_only_what_is_named_stays_when_asked(
    cloud: Cloud, capsys: pytest.CaptureFixture[str]
) -> None:
    request = planned(cloud, capsys, "--component", "plant.Bolts=1.0.0", "--only")
    assert request == {"targetArn": THING, "components": BOLTS}


def test_a_component_can_be_taken_off(cloud: Cloud, capsys: pytest.CaptureFixture[str]) -> None:
    request = planned(cloud, capsys, "--remove", "plant.Nuts")
    assert list(request["components"]) == [AGENT]


def test_the_plan_is_told(cloud: Cloud, capsys: pytest.CaptureFixture[str]) -> None:
    cloud.deployed(THING, {**CURRENT, "deploymentStatus": "CANCELED"})
    words = ["--component", f"{AGENT}=1.4.0", "--component", "plant.Bolts=1.0.0"]
    words += ["--remove", "plant.Nuts", "--reset", f"{AGENT}=/log_level"]
    assert deploy(*words, "--dry-run") == 0
    assert capsys.readouterr().err.splitlines() == [
        f"To {THING}, after revision 7, CANCELED:",
        f"  ~ {AGENT} 1.3.0 → 1.4.0, configuration",
        "  + plant.Bolts 1.0.0",
        "  - plant.Nuts 2.0.0",
    ]


def test_settings_are_merged_into_those_that_stay(
    cloud: Cloud, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "agent.json"
    file.write_text('{"models": {"thresholds": {"bolts": 0.6}}, "results": {"publish": "changes"}}')
    request = planned(cloud, capsys, "--merge", f"{AGENT}={file}")
    agent = request["components"][AGENT]
    assert json.loads(agent["configurationUpdate"].pop("merge")) == {
        "models": {"thresholds": {"bolts": 0.6, "nuts": 0.5}},
        "log_level": 1,
        "results": {"publish": "changes"},
    }
    assert agent == {
        "componentVersion": "1.3.0",
        "configurationUpdate": {"reset": ["/server"]},
        "runWith": {"posixUser": "ggc_user"},
    }


@pytest.mark.parametrize(
    ("pointer", "merge"),
    [
        ("/models/thresholds/bolts", {"models": {"thresholds": {"nuts": 0.5}}, "log_level": 1}),
        ("/models", {"log_level": 1}),
        ("/log_level", {"models": {"thresholds": {"bolts": 0.4, "nuts": 0.5}}}),
        ("/absent/key", {"models": {"thresholds": {"bolts": 0.4, "nuts": 0.5}}, "log_level": 1}),
        ("", None),
    ],
)
def test_what_is_reset_is_not_merged_again(
    cloud: Cloud, capsys: pytest.CaptureFixture[str], pointer: str, merge: Any
) -> None:
    request = planned(cloud, capsys, "--reset", f"{AGENT}={pointer}")
    update = request["components"][AGENT]["configurationUpdate"]
    assert update["reset"] == ["/server", pointer]
    assert json.loads(update.get("merge", "null")) == merge


def test_rollout_and_failure_in_the_words_of_the_api(
    cloud: Cloud, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--rollout", "start=5,factor=1.5,succeeded=10,max=100", "--timeout-min", "20"]
    words += ["--stop-when", "failure=FAILED,percent=20,devices=4"]
    words += ["--stop-when", "failure=ALL,percent=50.5,devices=2"]
    words += ["--on-failure", "rollback", "--defer-s", "120", "--name", "night shift"]
    job = {
        "jobExecutionsRolloutConfig": {
            "maximumPerMinute": 100,
            "exponentialRate": {
                "baseRatePerMinute": 5,
                "incrementFactor": 1.5,
                "rateIncreaseCriteria": {"numberOfSucceededThings": 10},
            },
        },
        "abortConfig": {
            "criteriaList": [
                {
                    "failureType": failure,
                    "action": "CANCEL",
                    "thresholdPercentage": percent,
                    "minNumberOfExecutedThings": devices,
                }
                for failure, percent, devices in (("FAILED", 20.0, 4), ("ALL", 50.5, 2))
            ]
        },
        "timeoutConfig": {"inProgressTimeoutInMinutes": 20},
    }
    cloud.deployed(GROUP, None)
    cloud.deploys(
        {
            "targetArn": GROUP,
            "deploymentName": "night shift",
            "components": BOLTS,
            "iotJobConfiguration": job,
            "deploymentPolicies": {
                "failureHandlingPolicy": "ROLLBACK",
                "componentUpdatePolicy": {"action": "NOTIFY_COMPONENTS", "timeoutInSeconds": 120},
            },
        },
        job=JOB,
    )
    words += ["--component", "plant.Bolts=1.0.0", "--wait-s", "0"]
    assert deploy(*words, to="--thing-group") == 0
    assert capsys.readouterr().out.endswith("Deployment new is created.\n")


def test_components_need_not_be_asked(cloud: Cloud, capsys: pytest.CaptureFixture[str]) -> None:
    request = planned(cloud, capsys, "--defer-s", "0", "--rollout", "max=3")
    assert request["deploymentPolicies"] == {
        "failureHandlingPolicy": "DO_NOTHING",
        "componentUpdatePolicy": {"action": "SKIP_NOTIFY_COMPONENTS"},
    }
    assert request["iotJobConfiguration"] == {
        "timeoutConfig": {"inProgressTimeoutInMinutes": 30},
        "jobExecutionsRolloutConfig": {"maximumPerMinute": 3},
    }


@pytest.mark.parametrize(
    ("option", "given", "sentence"),
    [
        ("--rollout", "factor=2", "needs max, or start and one of"),
        ("--rollout", "start=5", "start needs exactly one of notified and succeeded"),
        ("--rollout", "start=5,notified=1,succeeded=1", "exactly one of"),
        ("--rollout", "max=3,succeeded=1", "exactly one of"),
        ("--rollout", "max=1001", "max: "),
        ("--rollout", "speed=3", "speed: unknown key; known here: factor, max"),
        ("--rollout", "max", "expected NAME=VALUE"),
        ("--stop-when", "failure=BAD,percent=1,devices=1", "failure: "),
        ("--stop-when", "failure=ALL,percent=101,devices=1", "percent: "),
        ("--stop-when", "failure=ALL", "percent: "),
        ("--component", "plant.Bolts", "expected NAME=VALUE"),
        ("--component", "bad name=1.0.0", "the name must be up to 128 letters"),
        ("--component", "plant.Bolts=banana", "the version must be a version such as 1.0.0"),
        ("--component", "plant.Bolts=1.0.0\n", "the version must be a version such as 1.0.0"),
        ("--timeout-min", "0", "--timeout-min must be a whole number from 1 to 2147483647."),
        ("--defer-s", "-5", "--defer-s must be a whole number from 0 to 2147483647."),
        ("--name", "n" * 257, "--name must be text of 1 to 256 characters."),
        ("--reset", "plant.Nuts=Autostart", "must be a JSON pointer such as /Autostart"),
        ("--remove", "plant.Absent", "it isn't in the deployment. Components in it: "),
        ("--reset", "plant.Absent=/a", "it isn't in the deployment"),
        ("--merge", "plant.Nuts=/nonexistent.json", "can't be read"),
    ],
)
def test_what_makes_no_sense_is_a_sentence(
    cloud: Cloud, capsys: pytest.CaptureFixture[str], option: str, given: str, sentence: str
) -> None:
    if sentence.startswith("it isn't"):
        cloud.deployed(THING, CURRENT)
    assert deploy(option, given) == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize(
    ("current", "words"),
    [
        (None, []),
        (None, ["--name", "night shift"]),
        (CURRENT, []),
        (CURRENT, ["--only"]),
        (CURRENT, ["--remove", "plant.Absent"]),
        ({}, ["--from"]),
        (CURRENT, ["--from"]),
    ],
)
def test_nothing_to_deploy_is_refused(
    cloud: Cloud, tmp_path: Path, capsys: pytest.CaptureFixture[str], current: Any, words: Any
) -> None:
    empty = tmp_path / "deployment.json"
    empty.write_text(json.dumps({"targetArn": THING}))
    cloud.deployed(THING, current)
    assert deploy(*words, *([empty] if "--from" in words else [])) == 2
    assert "There is nothing to deploy" in capsys.readouterr().err


def test_the_same_again_can_be_deployed(cloud: Cloud, capsys: pytest.CaptureFixture[str]) -> None:
    request = planned(cloud, capsys, "--component", "plant.Nuts=2.0.0")  # it may have failed before
    assert request["components"] == CURRENT["components"]


@pytest.mark.parametrize("version", ["1.0.0-rc.1", "10.2.3+build.7"])
def test_a_version_may_be_any_of_semantic_versioning(
    cloud: Cloud, capsys: pytest.CaptureFixture[str], version: str
) -> None:
    request = planned(cloud, capsys, "--component", f"plant.Bolts={version}")
    assert request["components"]["plant.Bolts"] == {"componentVersion": version}


def test_what_is_absent_already_is_told_and_the_rest_is_done(
    cloud: Cloud, capsys: pytest.CaptureFixture[str]
) -> None:
    cloud.deployed(THING, CURRENT)
    words = ["--remove", "plant.Absent", "--remove", "plant.Nuts", "--dry-run"]
    assert deploy(*words) == 0
    captured = capsys.readouterr()
    assert list(json.loads(captured.out)["components"]) == [AGENT]
    assert captured.err.splitlines()[1:] == [
        f"    {AGENT} 1.3.0",
        "  - plant.Nuts 2.0.0",
        "--remove plant.Absent: it isn't in the deployment. Components in it: "
        f"{AGENT}, plant.Nuts.",
    ]


def test_a_target_must_be_named(cloud: Cloud, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["deploy", "--component", "plant.Bolts=1.0.0"]) == 2
    assert "There is no target; name --thing or --thing-group." in capsys.readouterr().err
    assert main(["deploy", "--target-arn", "arn:aws:iot:thing/x"]) == 2
    assert "'arn:aws:iot:thing/x'; it must be the ARN of a thing" in capsys.readouterr().err


# ---------------------------------------------------------------------- files


def test_a_request_can_come_from_a_file(
    cloud: Cloud, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "deployment.json"
    told = {"deploymentId": "x", "revisionId": "3", "isLatestForTarget": True, "components": BOLTS}
    file.write_text(json.dumps({**told, "targetArn": GROUP, "deploymentName": "from afar"}))
    cloud.deployed(GROUP, CURRENT)
    assert main(["deploy", "--from", str(file), "--dry-run"]) == 0
    request = json.loads(capsys.readouterr().out)
    assert request["targetArn"] == GROUP
    assert request["deploymentName"] == "from afar"
    assert request["components"] == {**CURRENT["components"], **BOLTS}

    assert planned(cloud, capsys, "--from", file)["targetArn"] == THING


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("[]", "must hold one JSON object"),
        ("{", "isn't JSON"),
        ('{"recipe": {}}', "has recipe; known: targetArn, deploymentName, components"),
        ('{"components": []}', "needs a componentVersion"),
        ('{"components": {"plant.Bolts": {}}}', "needs a componentVersion"),
    ],
)
def test_a_file_that_is_no_request_is_refused(
    cloud: Cloud, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str, sentence: str
) -> None:
    file = tmp_path / "deployment.json"
    file.write_text(content)
    assert deploy("--from", file) == 2
    assert sentence in capsys.readouterr().err


def shouted(value: Any) -> Any:
    """The same with keys as CloudFormation writes them, but for names."""
    if isinstance(value, list):
        return [shouted(entry) for entry in value]
    if not isinstance(value, dict):
        return value
    return {
        key if "." in key or key == "line" else key[0].upper() + key[1:]: shouted(entry)
        for key, entry in value.items()
    }


@pytest.mark.parametrize("as_text", [True, False])
def test_a_file_may_have_keys_of_any_case_and_settings_as_an_object(
    cloud: Cloud, tmp_path: Path, capsys: pytest.CaptureFixture[str], as_text: bool
) -> None:
    settings = {"Topic": "line4", "Nested": {"ÄÖ": [1]}}
    update = {"merge": json.dumps(settings) if as_text else settings, "reset": ["/a"]}
    given = {"componentVersion": "1.0.0-beta.1+5", "configurationUpdate": update}
    component = {**given, "runWith": {"posixUser": "a:b", "windowsUser": None}}
    file = tmp_path / "deployment.json"
    deployment = {**CURRENT, "components": {"plant.Bolts": component}, "targetArn": GROUP}
    file.write_bytes(json.dumps(shouted(deployment)).encode("utf-8-sig"))
    cloud.deployed(GROUP, None)

    assert main(["deploy", "--from", str(file), "--dry-run"]) == 0

    request = json.loads(capsys.readouterr().out)
    made = request["components"]["plant.Bolts"]
    merge = json.loads(made["configurationUpdate"].pop("merge"))
    assert merge == (settings if as_text else shouted(settings))
    assert made == {
        "componentVersion": "1.0.0-beta.1+5", "configurationUpdate": {"reset": ["/a"]},
        "runWith": {"posixUser": "a:b"},
    }  # fmt: skip
    assert request["deploymentPolicies"] == CURRENT["deploymentPolicies"]
    assert request["iotJobConfiguration"] == CURRENT["iotJobConfiguration"]


def test_a_key_that_stands_there_twice_is_refused_with_its_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "deployment.json"
    file.write_text('{"components": {"a": {"componentVersion": "1", "ComponentVersion": "2"}}}')

    assert main(["deploy", "--from", str(file), "--target-arn", THING, "--dry-run"]) == 2
    assert f"{file}: components.a.componentVersion stands there twice" in capsys.readouterr().err


def test_a_dry_run_names_all_that_aws_would_refuse(
    cloud: Cloud, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = {"componentVersion": "one", "runWith": {"user": "root"}}
    file = tmp_path / "deployment.json"
    file.write_text(json.dumps({"components": {"plant.Bolts": wrong}, "tags": {"line": 4}}))
    cloud.deployed(THING, None)

    assert deploy("--from", file, "--dry-run") == 2
    error = capsys.readouterr().err
    for place in (".componentVersion must be", ".runWith.user is an unknown", "tags.line must be"):
        assert place in error


@pytest.mark.parametrize("missing", ["credentials", "region", "network", "boto3"])
def test_a_dry_run_needs_no_account_and_no_network(
    missing: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if missing == "credentials":
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
            monkeypatch.delenv(name)
    if missing == "region":
        monkeypatch.delenv("AWS_DEFAULT_REGION")
    if missing == "boto3":
        for name in ("boto3", "botocore"):
            monkeypatch.setitem(sys.modules, name, None)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and doesn't listen
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{taken.getsockname()[1]}")
        assert deploy("--component", "plant.Bolts=1.0.0", "--dry-run") == 0

    shown = capsys.readouterr()
    target = "arn:aws:iot:REGION:ACCOUNT:thing/edge-1"
    assert json.loads(shown.out) == {"targetArn": target, "components": BOLTS}
    assert shown.err.startswith(f"To {target}:\n  + plant.Bolts 1.0.0\nWhat is deployed there now")
    assert "Traceback" not in shown.err


@pytest.mark.parametrize("merge", [["a"], "[]", "{"])
def test_a_merge_that_is_no_object_as_text_is_refused(
    cloud: Cloud, tmp_path: Path, capsys: pytest.CaptureFixture[str], merge: Any
) -> None:
    file = tmp_path / "deployment.json"
    given = {"componentVersion": "1.0.0", "configurationUpdate": {"merge": merge}}
    file.write_text(json.dumps({"components": {"plant.Bolts": given}}))
    cloud.deployed(THING, None)
    assert deploy("--from", file, "--reset", "plant.Bolts=/a") == 2
    assert (
        "plant.Bolts: configurationUpdate.merge must be the text of a JSON object"
        in capsys.readouterr().err
    )


def test_what_the_service_model_forbids_is_a_sentence(
    cloud: Cloud, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "deployment.json"
    wrong = {"componentVersion": "1.0.0", "configurationUpdate": {"merge": 5}}
    file.write_text(json.dumps({"components": {"plant.Bolts": wrong}}))
    cloud.deployed(THING, None)
    cloud.greengrass.add_response("create_deployment", {})
    assert deploy("--from", file) == 2
    cloud.greengrass.deactivate()
    cloud.greengrass._queue.clear()
    error = capsys.readouterr().err
    assert "The request isn't valid for AWS" in error
    assert "components.plant.Bolts.configurationUpdate.merge" in error


def test_a_subdeployment_is_not_the_deployment_of_a_group(
    cloud: Cloud, capsys: pytest.CaptureFixture[str]
) -> None:
    found = {"targetArn": GROUP, "deploymentId": "sub", "parentTargetArn": GROUP + "-parent"}
    cloud.answers(
        "list_deployments",
        {"targetArn": GROUP, "historyFilter": "LATEST_ONLY"},
        deployments=[found, {**found, "deploymentId": "own", "parentTargetArn": ""}],
    )
    cloud.answers("get_deployment", {"deploymentId": "own"}, **CURRENT)
    assert deploy("--remove", "plant.Nuts", "--dry-run", to="--thing-group") == 0
    assert list(json.loads(capsys.readouterr().out)["components"]) == [AGENT]


# ---------------------------------------------------------------------- the end on the devices


@pytest.mark.parametrize("status", ["FAILED", "REJECTED", "TIMED_OUT", "CANCELED"])
def test_a_device_that_fails_says_why(
    cloud: Cloud, capsys: pytest.CaptureFixture[str], status: str
) -> None:
    cloud.deployed(THING, None)
    cloud.deploys({"targetArn": THING, "components": BOLTS})
    stack = ["DEPLOYMENT_FAILURE", "ARTIFACT_DOWNLOAD_ERROR"]
    cloud.effective(
        "edge-1", status, reason="FAILED_NO_STATE_CHANGE: no room",
        statusDetails={"errorStack": stack, "errorTypes": ["DEVICE_ERROR"]},
    )  # fmt: skip
    assert deploy("--component", "plant.Bolts=1.0.0") == 1
    assert capsys.readouterr().err == (
        f"edge-agent: edge-1 {status}: FAILED_NO_STATE_CHANGE: no room · "
        "DEPLOYMENT_FAILURE > ARTIFACT_DOWNLOAD_ERROR\n"
    )


def test_the_name_of_a_thing_may_have_colons(
    cloud: Cloud, capsys: pytest.CaptureFixture[str]
) -> None:
    target = THING.replace("edge-1", "plant:edge-1")
    cloud.deployed(target, None)
    cloud.deploys({"targetArn": target, "components": BOLTS})
    cloud.effective("plant:edge-1", "SUCCEEDED")
    assert main(["deploy", "--target-arn", target, "--component", "plant.Bolts=1.0.0"]) == 0


def test_waiting_for_a_device_has_an_end(cloud: Cloud, capsys: pytest.CaptureFixture[str]) -> None:
    cloud.deployed(THING, None)
    cloud.deploys({"targetArn": THING, "components": BOLTS})
    cloud.effective("edge-1", "QUEUED")
    assert deploy("--component", "plant.Bolts=1.0.0", "--wait-s", "1e-9") == 1
    assert capsys.readouterr().err == (
        "edge-agent: Not finished after 1e-09 s: edge-1 is QUEUED. The deployment new goes on; "
        "a longer --wait-s waits longer.\n"
    )


@pytest.fixture(name="group")
def _group(cloud: Cloud) -> Cloud:
    """A group that gets its first deployment."""
    cloud.deployed(GROUP, None)
    cloud.deploys({"targetArn": GROUP, "components": BOLTS}, job=JOB)
    return cloud


def to_the_group() -> int:
    return deploy("--component", "plant.Bolts=1.0.0", to="--thing-group")


def test_a_group_is_followed_until_every_device_has_ended(
    group: Cloud, capsys: pytest.CaptureFixture[str]
) -> None:
    group.group("edge-1", "edge-2", "gone")
    group.job({})
    group.job({"edge-1": "IN_PROGRESS", "gone": "REMOVED"})
    group.job({"edge-1": "SUCCEEDED", "edge-2": "QUEUED", "gone": "REMOVED"})
    group.job({"edge-1": "SUCCEEDED", "edge-2": "SUCCEEDED", "gone": "REMOVED", "new": "QUEUED"})
    assert to_the_group() == 0
    assert capsys.readouterr().out.splitlines()[3:] == [
        "3 devices (3 without an answer)",
        "2 devices (1 IN_PROGRESS, 1 without an answer)",
        "2 devices (1 QUEUED, 1 SUCCEEDED)",
        "2 devices (2 SUCCEEDED)",
        "2 of 2 devices SUCCEEDED",
    ]


def test_the_devices_of_a_group_that_failed_are_named_with_their_reasons(
    group: Cloud, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [f"edge-{number}" for number in range(1, 8)]
    group.group("good", *names)
    group.job({"good": "SUCCEEDED", **dict.fromkeys(names, "FAILED")})
    for name in names[:5]:
        group.effective(name, "FAILED", reason="no room")
    assert to_the_group() == 1
    error = capsys.readouterr().err
    assert error.startswith("edge-agent: 1 of 8 devices SUCCEEDED; edge-1 FAILED: no room; edge-2")
    assert error.endswith("edge-5 FAILED: no room; and 2 more\n")


def test_a_rollout_that_was_stopped_ends(group: Cloud, capsys: pytest.CaptureFixture[str]) -> None:
    group.group("edge-1", "edge-2")
    group.job({"edge-1": "SUCCEEDED"}, status="CANCELED")
    group.effective("edge-2", None)
    assert to_the_group() == 1
    assert capsys.readouterr().err == (
        "edge-agent: 1 of 2 devices SUCCEEDED; the deployment is CANCELED; "
        "edge-2 without an answer\n"
    )


def test_a_group_without_devices_has_nothing_to_wait_for(
    group: Cloud, capsys: pytest.CaptureFixture[str]
) -> None:
    group.group()
    group.job({})
    assert to_the_group() == 0
    assert "devices that join it later get the deployment" in capsys.readouterr().out


def test_all_pages_are_read(cloud: Cloud, capsys: pytest.CaptureFixture[str]) -> None:
    cloud.deployed(THING, None)
    cloud.deploys({"targetArn": THING, "components": BOLTS})
    first = {"deploymentId": "old", "deploymentName": "", "targetArn": THING}
    first.update(coreDeviceExecutionStatus="FAILED")
    times = {"creationTimestamp": THEN, "modifiedTimestamp": THEN}
    cloud.answers(
        "list_effective_deployments",
        {"coreDeviceThingName": "edge-1"},
        effectiveDeployments=[{**first, **times}],
        nextToken="2",
    )
    second = {**first, **times, "deploymentId": "new", "coreDeviceExecutionStatus": "SUCCEEDED"}
    cloud.answers(
        "list_effective_deployments",
        {"coreDeviceThingName": "edge-1", "nextToken": "2"},
        effectiveDeployments=[second],
    )
    assert deploy("--component", "plant.Bolts=1.0.0") == 0
