"""Recipes from elsewhere, made so that migrating them takes for ever or ends in a traceback.

Each takes at most in proportion to its size: four times the size may take ten times as long, which
is far from the sixteen times and more of what was wrong, however busy the machine is.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, Callable, Dict

import pytest

from edge_agent.errors import InvalidConfiguration
from edge_agent.packaging.migrate.migrate_command import migrate
from edge_agent.packaging.migrate.migration import Migration
from edge_agent.packaging.recipe import AGENT

Write = Callable[[int], str]
SMALL, BIG = 20_000, 80_000  # bytes; a file may have a million
LEAST_S = 0.1  # below it, measured times say nothing


def recipe(script: str, **changes: Any) -> Dict[str, Any]:
    return {
        "RecipeFormatVersion": "2020-01-25",
        "ComponentName": "plant.Client",
        "ComponentVersion": "1.0.0",
        "ComponentDescription": "Calls the agent",
        "ComponentPublisher": "Plant",
        "Manifests": [manifest(script)],
        **changes,
    }


def manifest(script: str, architecture: str = "amd64", **run: Any) -> Dict[str, Any]:
    return {
        "Platform": {"os": "linux", "architecture": architecture},
        "Lifecycle": {"run": {"Script": script, **run}},
    }


def scripted(write: Write) -> Write:
    return lambda size: json.dumps(recipe(write(size)))


def many_scripts(size: int) -> str:
    manifests = [manifest(f"a | b{index}") for index in range(size // 100)]
    return json.dumps(recipe("", Manifests=manifests))


def many_settings(size: int) -> str:
    settings = {"ComponentConfiguration": {"DefaultConfiguration": {"a": "b"}}}
    return json.dumps(recipe("echo " + "{configuration:/a} " * (size // 19), **settings))


def many_exports(size: int) -> str:
    setenv = {f"E{index}": f"{{configuration:/{index}}}" for index in range(size // 34)}
    return json.dumps(recipe("", Manifests=[manifest("a", Setenv=setenv)]))


def values_in_errors(size: int) -> str:
    return json.dumps({"Socket": "/run/a", "server": {"x (it is " * (size // 9): 1}})


SLOW: Dict[str, Write] = {
    "variables": scripted(lambda size: "echo" + " {work:path}" * (size // 12)),
    "variables-in-a-file": scripted(
        lambda size: "a |" + "".join(f" {{configuration:/{i}}}" for i in range(size // 22))
    ),
    "quote-without-end": scripted(lambda size: "'" + "{work:path}" * (size // 11) + "$"),
    "brace-without-end": scripted(lambda size: "{" + "a:" * (size // 2)),
    "settings": many_settings,
    "scripts": many_scripts,
    "exports": many_exports,
    "keys-in-yaml": lambda size: "".join(f"key{index}: 1\n" for index in range(size // 9)),
    "number-to-base-60": lambda size: "ComponentName: 1" + ":1" * (size // 2),
    "values-in-errors": values_in_errors,
}


def attempt(folder: Path, content: str) -> str:
    """Migrate a file as the command does; return the last thing that it says."""
    file = folder / "recipe.txt"
    file.write_text(content)
    migration = Migration(folder / "out", AGENT)
    try:
        migrate([file], migration)
    except InvalidConfiguration as error:
        return str(error)
    return migration.findings[-1].message


def seconds(folder: Path, content: str) -> float:
    began = time.process_time()
    attempt(folder, content)
    return time.process_time() - began


@pytest.mark.timeout(120)
@pytest.mark.parametrize("case", SLOW)
def test_four_times_the_size_takes_at_most_ten_times_as_long(tmp_path: Path, case: str) -> None:
    attempt(tmp_path, SLOW[case](1000))  # what is imported late
    small = max(LEAST_S, seconds(tmp_path, SLOW[case](SMALL)))
    assert seconds(tmp_path, SLOW[case](BIG)) < 10 * small


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "expression",
    ["((((((((.*)*)*)*)*)*)*)*)*y", "(?:(?:(?:(?:x{0}){9999}){9999}){9999}){9999}y", "a" * 1000],
)
def test_a_regular_expression_of_a_stranger_ends(tmp_path: Path, expression: str) -> None:
    content = recipe("", Manifests=[manifest("a", architecture=f"/{expression}/")])
    assert "is more than a choice of architectures" in attempt(tmp_path, json.dumps(content))


def test_a_choice_of_architectures_is_still_understood(tmp_path: Path) -> None:
    for expression in ("amd64|x86_64", "(arm64|aarch64)", "a.*64", "(?:amd64|arm64)", "arm64+"):
        content = recipe("", Manifests=[manifest("python3 a.py", f"/{expression}/")])
        assert "A recipe for both nuclei" in attempt(tmp_path, json.dumps(content))


@pytest.mark.parametrize(
    "value",
    [
        "!!bool x", "!!int ''", "!!int x", "!!float x", "!!timestamp x", "!!binary '*'",
        "!!python/object/apply:os.system [id]", "!!set {a}", "1" + ":59" * 2000 + ".5", "*a",
        "&a 1", "0x" + "f" * 5000, ".nan", "[" * 2000,
    ],
)  # fmt: skip
def test_a_value_that_yaml_has_and_json_hasnt_is_a_sentence_not_a_traceback(
    tmp_path: Path, value: str
) -> None:
    said = attempt(tmp_path, f"ComponentName: plant.Client\nComponentVersion: {value}\n")
    assert "can't be read" in said or "nested" in said or "isn't a version" in said


def test_a_value_cut_out_of_a_sentence_stays_out_when_it_looks_like_the_sentence(
    tmp_path: Path,
) -> None:
    secret = {"Socket": "/run/a", "server": {"socket_mode": "(it is hunter2", "tcp": 5}}
    attempt(tmp_path, json.dumps(secret))
    migration = Migration(tmp_path / "out", AGENT)
    migrate([tmp_path / "recipe.txt"], migration)
    assert not [found for found in migration.findings if "hunter2" in found.message]
