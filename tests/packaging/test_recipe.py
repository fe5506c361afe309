"""Recipes keep the rules of both nuclei, and every breach is found."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any, Dict, List

import pytest
import yaml

from edge_agent.errors import InvalidConfiguration
from edge_agent.packaging.recipe import VARIABLE, Recipe, check, model_component

AGENT = "aws.iot.lookoutvision.EdgeAgent"


def recipe(description: str = "Bolts: heads & threads, 50 % of them “new”") -> Recipe:
    return model_component("plant.Bolts", "3.0.0", description, "aarch64", AGENT)


def values() -> Any:
    return json.loads(recipe().to_json())


def refusal(changed: Dict[str, Any]) -> str:
    with pytest.raises(InvalidConfiguration) as caught:
        check(json.dumps(changed).encode())
    return str(caught.value)


def put(path: str, value: Any) -> Dict[str, Any]:
    """Our recipe with one value changed; numbers in the path are places in lists."""
    changed = place = values()
    *way, last = path.split("/")
    for part in way:
        place = place[int(part)] if isinstance(place, list) else place[part]
    place[last] = value
    return changed  # type: ignore[no-any-return]


def test_json_is_read_back_as_the_same_recipe() -> None:
    assert check(recipe().to_json()) == recipe()


def test_yaml_holds_the_same_values_with_their_types() -> None:
    assert yaml.safe_load(recipe().to_yaml()) == values()
    awkward = recipe("true")
    assert yaml.safe_load(awkward.to_yaml())["ComponentDescription"] == "true"


def test_a_model_component_depends_on_the_agent_and_runs_on_its_architecture() -> None:
    made = values()

    assert made["ComponentDependencies"] == {
        AGENT: {"VersionRequirement": ">=1.3.0 <2.0.0", "DependencyType": "SOFT"}
    }
    (manifest,) = made["Manifests"]
    assert manifest["Platform"] == {"os": "linux", "runtime": "*", "architecture": "aarch64"}
    assert manifest["Artifacts"][0]["Permission"] == {"Read": "ALL", "Execute": "ALL"}
    assert made["ComponentConfiguration"]["DefaultConfiguration"] == {
        "Autostart": False,
        "Records": "models.d",
        "Threshold": "",
    }


def test_another_name_of_the_agent_is_used_everywhere() -> None:
    content = model_component("a", "1.0.0", "b", "amd64", "plant.Agent").to_json().decode()

    assert AGENT not in content
    assert content.count("plant.Agent") == 3


RUN, INSTALL = "Manifests/0/Lifecycle/run", "Manifests/0/Lifecycle/install"


@pytest.mark.parametrize(
    ("path", "value", "sentence"),
    [
        ("Manifests/0/Lifecycle/startup", {"Script": "exec true"}, "startup: unknown key"),
        ("Manifests/0/Lifecycle/shutdown", {"Script": "exec true"}, "shutdown: unknown key"),
        (
            "Manifests/0/Lifecycle/Run",
            {"Script": "exec true"},
            "Run: unknown key; known here: install, run",
        ),
        (INSTALL, {"Script": "exec true"}, "Timeout: field required"),
        (INSTALL, {"Script": "pip install a", "Timeout": 9}, "exec, then one program"),
        (INSTALL, {"Script": 'exec a "{configuration:/Gone}"', "Timeout": 9}, "install inserts"),
        (f"{RUN}/Timeout", 15, "Timeout: unknown key"),
        (f"{RUN}/Skipif", "onpath x", "Skipif: unknown key"),
        (f"{RUN}/script", "exec true", "script: unknown key; known here: Script"),
        (f"{RUN}/Script", ["exec true"], "valid string"),
        (f"{RUN}/Script", "python3 a.py", "exec, then one program"),
        (f"{RUN}/Script", "exec true\nexec false", "exec, then one program"),
        (f"{RUN}/Script", 'exec echo "${HOME}"', "braces"),
        (f"{RUN}/Script", "exec awk '{print}'", "braces"),
        (f"{RUN}/Script", 'exec echo "{work:folder}"', "braces"),
        (f"{RUN}/Script", "exec ls {work:path}", "double quotes"),
        (f"{RUN}/Script", 'exec ls "a" {work:path} "b"', "double quotes"),
        (f"{RUN}/Script", 'exec echo "{configuration:/Gone}"', "inserts /Gone"),
        ("Manifests/0/Platform", {"os": "linux", "architecture": "amd64"}, "runtime: field req"),
        ("Manifests/0/Platform/os", "windows", "it is 'windows'"),
        ("Manifests/0/Platform/architecture", "/arm.*/", "it is '/arm.*/'"),
        ("Manifests/0/Artifacts/0/Permission", {"Read": "ALL"}, "Execute: field required"),
        ("Manifests/0/Artifacts/0/Uri", "s3://b/c", "Uri: unknown key"),
        ("Manifests/0/Artifacts/0/URI", "file:///c", "URI"),
        ("Manifests", [], "at least 1"),
        ("componentName", "a", "componentName: unknown key"),
        ("ComponentVersion", "1.0", "ComponentVersion"),
        ("ComponentVersion", "01.0.0", "ComponentVersion"),
        ("ComponentName", "a b", "ComponentName"),
        ("ComponentDescription", "", "ComponentDescription"),
        ("ComponentDescription", "a" * 257, "ComponentDescription"),
        (f"ComponentDependencies/{AGENT}", {"Version": "1"}, "VersionRequirement"),
        ("RecipeFormatVersion", "2021-01-25", "RecipeFormatVersion"),
    ],
)
def test_what_one_nucleus_would_not_do_is_refused(path: str, value: Any, sentence: str) -> None:
    assert sentence in refusal(put(path, value))


@pytest.mark.parametrize(("resource", "allowed"), [("a/?", False), ("a/${?}", True), ("*", True)])
def test_a_question_mark_in_a_resource_must_be_escaped(resource: str, allowed: bool) -> None:
    policy = {"a:pubsub:1": {"operations": ["*"], "resources": [resource]}}
    services = {"aws.greengrass.ipc.pubsub": policy}
    changed = put("ComponentConfiguration/DefaultConfiguration/accessControl", services)

    if allowed:
        check(json.dumps(changed).encode())
    else:
        assert "lite refuses '?'" in refusal(changed)


def test_a_recipe_stays_below_8_kib() -> None:
    settings = "ComponentConfiguration/DefaultConfiguration/Note"
    room = 8192 - len(json.dumps(put(settings, "")))

    check(json.dumps(put(settings, "a" * (room - 1))).encode())
    assert "has 8192 bytes" in refusal(put(settings, "a" * room))


def test_a_recipe_stays_below_255_keys_and_values() -> None:
    def with_settings(count: int) -> Dict[str, Any]:
        changed = values()
        settings = changed["ComponentConfiguration"]["DefaultConfiguration"]
        settings.update({f"s{number}": number for number in range(count)})
        return changed  # type: ignore[no-any-return]

    check(json.dumps(with_settings(80)).encode())  # lite was seen to take them
    assert "keys and values" in refusal(with_settings(120))  # and to refuse these


def truncated() -> List[str]:
    script = recipe().Manifests[0].Lifecycle.run.Script
    return [script[: found.start()] for found in VARIABLE.finditer(script)]


@pytest.mark.parametrize("script", truncated())
def test_a_script_that_lite_cuts_off_fails_instead_of_doing_half(
    script: str, tmp_path: Path
) -> None:
    done = subprocess.run(
        ["sh", "-c", script], cwd=tmp_path, env=dict(os.environ), capture_output=True, check=False
    )

    assert done.returncode == 2
    assert b"nterminated quoted string" in done.stderr or b"unexpected EOF" in done.stderr


def test_every_variable_of_the_script_is_one_it_can_be_cut_off_at() -> None:
    assert len(truncated()) == 6
