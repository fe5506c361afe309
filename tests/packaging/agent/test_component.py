"""The agent's recipe: the template filled in, and no permission that its settings don't need."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

import pytest
import yaml

from edge_agent import __version__
from edge_agent.config import ResultsSettings
from edge_agent.errors import InvalidConfiguration
from edge_agent.fields import read
from edge_agent.packaging.agent.component import (
    ENVIRONMENT,
    PROJECT,
    ComponentPlan,
    access_control,
    recipe,
    write,
)
from edge_agent.packaging.recipe import AGENT, VARIABLE, Architecture

BOTH: Tuple[Architecture, ...] = ("amd64", "aarch64")
SOCKET = "unix:///tmp/aws.iot.lookoutvision.EdgeAgent.sock"


def values(name: str = AGENT, settings: Optional[Path] = None, **more: Any) -> Any:
    architectures = more.pop("architectures", BOTH)
    plan = ComponentPlan(name, architectures, ("3.11",), settings=settings, **more)
    return json.loads(recipe(plan).to_json())


def defaults(settings: Path, tree: Dict[str, Any], name: str = AGENT) -> Any:
    settings.write_text(json.dumps(tree))
    return values(name, settings)["ComponentConfiguration"]["DefaultConfiguration"]


def test_it_installs_and_runs_on_both_architectures() -> None:
    made = values()
    manifests = made["Manifests"]

    assert made["ComponentVersion"] == __version__
    assert [manifest["Platform"]["architecture"] for manifest in manifests] == [*BOTH]
    for manifest in manifests:
        file = f"edge-agent-{manifest['Platform']['architecture']}"
        assert manifest["Platform"]["runtime"] == "*"
        assert manifest["Lifecycle"] == {
            "install": {
                "Script": f'exec env PYTHONPATH="{{artifacts:decompressedPath}}/{file}:'
                f'{{artifacts:path}}/{file}.zip" python3 -m install --work "{{work:path}}"',
                "Timeout": 900,
            },
            "run": {
                "Script": 'exec "{work:path}current/bin/python3" -m edge_agent serve '
                '--greengrass "{work:path}"'
            },
        }
        uri = f"s3://BUCKET_NAME/{AGENT}/{__version__}/{file}.zip"
        assert [artifact["URI"] for artifact in manifest["Artifacts"]] == [uri]


def test_only_what_is_built_is_in_it() -> None:
    (manifest,) = values(architectures=("aarch64",))["Manifests"]

    assert manifest["Platform"]["architecture"] == "aarch64"


def test_another_name_is_used_everywhere() -> None:
    named = json.dumps(values("plant.Agent"))

    # The socket's address is what existing clients know; it doesn't change with the name.
    assert AGENT not in named.replace(SOCKET, "")
    assert "COMPONENT_" not in named
    assert named.count("plant.Agent") == 4


def test_by_default_it_may_do_what_its_default_settings_need_and_no_more() -> None:
    made = values("plant.Agent")["ComponentConfiguration"]["DefaultConfiguration"]

    assert made == {
        "Socket": SOCKET,
        "results": {
            "publish": "anomalies",
            "greengrass": {"topic": "edge-agent/{thing}/{model}/{kind}"},
        },
        "accessControl": {
            "aws.greengrass.ipc.mqttproxy": {
                "plant.Agent:mqttproxy:1": {
                    "operations": ["aws.greengrass#PublishToIoTCore"],
                    "resources": ["edge-agent/{iot:thingName}/*/*"],
                }
            }
        },
    }


@pytest.mark.parametrize(
    ("settings", "policies"),
    [
        ({}, []),
        ({"lines": "-"}, []),
        ({"mqtt": {"endpoint": "broker"}, "commands": {"allow": {"hmi": ["describe"]}}}, []),
        ({"greengrass": {"topic": "a/{verdict}"}}, [("PublishToIoTCore", ["a/*"])]),
        ({"greengrass": {"local_topic": "a/{model}"}}, [("PublishToTopic", ["a/*"])]),
        ({"greengrass": {"topic": "a/{thing}"}, "thing": "press"},
         [("PublishToIoTCore", ["a/press"])]),
        ({"greengrass": {"topic": "$aws/a?*"}}, [("PublishToIoTCore", ["${$}aws/a${?}${*}"])]),
        ({"greengrass": {"topic": "a", "local_topic": "b"},
          "commands": {"allow": {"hmi": ["describe"]}, "topic": "c/{thing}"}},
         [("PublishToIoTCore", ["a", "edge-agent/{iot:thingName}/responses/*"]),
          ("SubscribeToIoTCore", ["c/{iot:thingName}/+"]), ("PublishToTopic", ["b"])]),
        ({"greengrass": {"topic": "a"}, "mqtt": {"endpoint": "broker"},
          "commands": {"allow": {"hmi": ["describe"]}}}, [("PublishToIoTCore", ["a"])]),
    ],
)  # fmt: skip
def test_permissions_follow_from_the_topics(settings: Dict[str, Any], policies: List[Any]) -> None:
    results = read(ResultsSettings, {"folder": "results", **settings})
    made = access_control(results, "plant.Agent")
    asked = {name: policy for service in made.values() for name, policy in service.items()}

    found = [
        (operation.partition("#")[2], policy["resources"])
        for policy in asked.values()
        for operation in policy["operations"]
    ]
    assert found == policies
    assert len(asked) == len(policies)  # ids are unique
    assert all(name.startswith("plant.Agent:") for name in asked)


def test_the_merge_on_the_page_allows_the_topic_that_it_sets() -> None:
    page = (PROJECT / "docs" / "greengrass.md").read_text()
    blocks = re.findall(r"^```json\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    (merge,) = [json.loads(block)[AGENT]["merge"] for block in blocks if '"merge"' in block]

    made = access_control(read(ResultsSettings, {"folder": "results", **merge["results"]}), AGENT)
    assert merge["accessControl"].items() <= made.items()


def test_component_metrics_are_asked_for_under_the_originals_name_only() -> None:
    (service,) = access_control(ResultsSettings(), AGENT)

    assert service == "aws.greengrass.ipc.componentmetric"
    assert access_control(ResultsSettings(), "plant.Agent") == {}


def test_without_any_need_there_is_no_access_control(tmp_path: Path) -> None:
    made = defaults(tmp_path / "s.json", {"log_level": "DEBUG"}, "plant.Agent")

    assert made == {"Socket": SOCKET, "log_level": "DEBUG"}


def test_a_settings_file_of_serve_gives_the_defaults_and_its_socket(tmp_path: Path) -> None:
    tree = {"server": {"socket": "unix:///run/agent.sock", "metrics": "localhost:9100"}}
    made = defaults(tmp_path / "s.json", tree, "plant.Agent")

    assert made == {"Socket": "unix:///run/agent.sock", "server": {"metrics": "localhost:9100"}}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ('{"resutls": {}}', "resutls"),
        ('{"Socket": "tmp/a"}', "server.socket"),
        ('{"results": {"mqtt": {"pkcs11_pin": "1234"}}}', "pkcs11_pin must not stand in a recipe"),
        ("[]", "must hold one JSON object"),
        ("{", "isn't JSON"),
        (None, "No such file"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(
    tmp_path: Path, content: Optional[str], sentence: str
) -> None:
    path = tmp_path / "s.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InvalidConfiguration, match=re.escape(sentence)) as caught:
        values(settings=path)

    assert "1234" not in str(caught.value)


def test_settings_too_long_for_lite_are_refused(tmp_path: Path) -> None:
    many = {"models": {"thresholds": {f"plant.Model{number}": 0.5 for number in range(120)}}}
    with pytest.raises(InvalidConfiguration, match="keys and values"):
        defaults(tmp_path / "s.json", many)


def scripts() -> List[str]:
    made = values()["Manifests"][0]["Lifecycle"]
    return [phase["Script"] for phase in made.values()]


def test_scripts_that_lite_cuts_off_fail_instead_of_doing_half(tmp_path: Path) -> None:
    cut = [text[: found.start()] for text in scripts() for found in VARIABLE.finditer(text)]
    done = [
        subprocess.run(
            ["sh", "-c", script], cwd=tmp_path, capture_output=True, check=False
        ).returncode
        for script in cut
    ]

    assert done == [2, 2, 2, 2, 2]


def test_in_a_container_one_program_runs_and_nothing_is_installed(tmp_path: Path) -> None:
    plan = ComponentPlan(
        "plant.Agent", ("aarch64",), ("3.8",), True, image="registry/edge-agent:jetson"
    )
    write(tmp_path, plan)
    (file,) = (tmp_path / "recipes").iterdir()
    (manifest,) = json.loads(file.read_bytes())["Manifests"]

    assert manifest["Artifacts"] == []
    assert list(manifest["Lifecycle"]) == ["run"]
    assert list((tmp_path / "artifacts" / "plant.Agent" / __version__).iterdir()) == []


def test_the_containers_command_line_is_what_docker_gets(tmp_path: Path) -> None:
    made = values("plant.Agent", image="edge-agent:jetson", has_jetson=True)
    script = made["Manifests"][1]["Lifecycle"]["run"]["Script"]
    for variable, value in {"{kernel:rootPath}": "/gg", "{work:path}": "/gg/own/a b/"}.items():
        script = script.replace(variable, value)
    docker = tmp_path / "docker"
    docker.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    docker.chmod(0o755)
    ipc = "AWS_GG_NUCLEUS_DOMAIN_SOCKET_FILEPATH_FOR_COMPONENT"
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", ipc: "/gg/ipc.socket"}
    done = subprocess.run(
        ["sh", "-c", script], env=environment, check=True, stdout=subprocess.PIPE, text=True
    )
    words = done.stdout.splitlines()

    assert words[:2] == ["run", "--rm"]
    assert words[-4:] == ["edge-agent:jetson", "serve", "--greengrass", "/gg/own/a b/"]
    assert f"{os.getuid()}:{os.getgid()}" in words
    assert {"/gg/ipc.socket:/gg/ipc.socket", "/gg/packages:/gg/packages:ro"} <= set(words)
    assert {"--runtime", "nvidia", "host", *ENVIRONMENT} <= set(words)
    assert "nvidia" not in made["Manifests"][0]["Lifecycle"]["run"]["Script"]


def test_without_the_projects_source_it_says_where_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfiguration, match="built from the project's source"):
        recipe(ComponentPlan(AGENT, BOTH, ("3.11",)), tmp_path)


def test_gdk_builds_the_same_component() -> None:
    ((name, component),) = json.loads((PROJECT / "gdk-config.json").read_bytes())[
        "component"
    ].items()

    assert (name, component["version"]) == (AGENT, __version__)
    assert component["build"] == {
        "build_system": "custom",
        "custom_build_command": ["edge-agent", "component", "build", "--gdk"],
    }
    assert (
        yaml.safe_load((PROJECT / "recipe.yaml").read_text())["ComponentName"] == "COMPONENT_NAME"
    )


def test_the_dockerfile_copies_what_a_component_has_and_starts_what_it_installs() -> None:
    text = (PROJECT / "Dockerfile.jetson").read_text()
    (copied,) = re.findall(r"^COPY \$\{COMPONENT\}/(\S+)", text, re.MULTILINE)
    uri = values(architectures=("aarch64",))["Manifests"][0]["Artifacts"][0]["URI"]
    run = values(architectures=("aarch64",))["Manifests"][0]["Lifecycle"]["run"]["Script"]

    assert Path("artifacts", *Path(uri).parts[2:]).match(copied)
    assert "/current/bin/python3" in text
    assert "current/bin/python3" in run
    assert set(re.findall(r"^([A-Z]+) ", text, re.MULTILINE)) == {
        "ARG", "FROM", "RUN", "COPY", "USER", "ENTRYPOINT", "CMD",
    }  # fmt: skip
