"""A translated script does on both nuclei what the original did on the classic one."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any, Dict

import pytest

from edge_agent.packaging.migrate.scripts import Program, Untranslatable, translate

SETTINGS = {"Topic": "line4/results", "Arguments": "--rate 5 --fast", "Shell": "a | b"}


def inserted(script: str, artifacts: Path, escaped: bool) -> str:
    """Insert variables as classic does, or as lite does."""
    values = {"{artifacts:path}": str(artifacts)}
    values.update({f"{{configuration:/{key}}}": value for key, value in SETTINGS.items()})
    for variable, value in values.items():
        script = script.replace(
            variable, re.sub(r'([\\"$`])', r"\\\1", value) if escaped else value
        )
    assert not escaped or not re.search(r"[{}]", script)
    return script


def output(script: str, artifacts: Path, environment: Dict[str, str]) -> str:
    done = subprocess.run(
        ["sh", "-c", script], cwd=artifacts, env={**os.environ, **environment},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout


SHOW = "printf '%s,'"


@pytest.mark.parametrize(
    ("script", "plain"),
    [
        ("printf %s {artifacts:path}/a", True),
        ('printf %s "{configuration:/Topic}"', True),
        ("printf %s '{configuration:/Topic}'", True),
        ('printf %s --topic="{configuration:/Topic}"/a', True),
        ("exec printf %s a", True),
        (f"{SHOW} {{configuration:/Arguments}}", False),
        (f'{SHOW} "{{configuration:/Arguments}}"', True),
        ("cd {artifacts:path} && pwd", False),
        ("A=1; B=${A}; echo $B {artifacts:path} {artifacts:path}", False),
        ("echo a\necho {artifacts:path}\n", False),
        ("echo a\r\necho b\r\n", False),
        ("export A={configuration:/Topic}\nprintf %s \"${A}\" '{configuration:/Topic}'", False),
        ("for a in 1 2; do echo $a {configuration:/Topic}; done", False),
        ("printf 'a b' | awk '{print $2}'", False),
        ("echo ${NONE:-default} # don't", False),
    ],
)
def test_a_script_does_the_same(script: str, plain: bool, tmp_path: Path) -> None:
    program = translate(script, {}, "", "run.sh", SETTINGS)
    (tmp_path / "run.sh").write_text(program.file)
    expected = output(inserted(script.replace("\r", ""), tmp_path, False), tmp_path, {})

    assert output(inserted(program.script, tmp_path, True), tmp_path, {}) == expected
    assert (not program.file) == plain
    assert expected


def test_the_environment_is_set_in_the_file(tmp_path: Path) -> None:
    setenv = {"A": 'it\'s "$5"', "B": "{configuration:/Topic}", "C": 5, "D": True, "E": "`a`\\"}
    program = translate("printenv A B C D E", setenv, "", "run.sh", SETTINGS)
    (tmp_path / "run.sh").write_text(program.file)

    shown = output(inserted(program.script, tmp_path, True), tmp_path, {})

    assert shown.splitlines() == ['it\'s "$5"', "line4/results", "5", "true", "`a`\\"]


@pytest.mark.parametrize(
    ("condition", "skipped"),
    [
        ("onpath sh", True),
        ("onpath no-such-program", False),
        ("exists {artifacts:path}/run.sh", True),
        ("exists /no/such/file", False),
    ],
)
def test_a_step_is_skipped_as_before(condition: str, skipped: bool, tmp_path: Path) -> None:
    program = translate("echo done", {}, condition, "run.sh", SETTINGS)
    (tmp_path / "run.sh").write_text(program.file)

    done = output(inserted(program.script, tmp_path, True), tmp_path, {})

    assert done == ("" if skipped else "done\n")


@pytest.mark.parametrize(
    ("script", "sentence"),
    [
        ("run {plant.Other:artifacts:path}/a", "nucleus lite knows no such variable"),
        ("run {work:folder}", "nucleus lite knows no such variable"),
        ("cat <<END\n{configuration:/Topic}\nEND", "here-document"),
        ("echo 'a $b {configuration:/Topic}'", "single quotes"),
        ("echo {configuration:/Shell}", "a piece of shell script"),
        ("echo '\"{configuration:/Topic}\"'", "double quotes within single quotes"),
        ("", "isn't empty"),
        (["a"], "must be text"),
        (None, "must be text"),
    ],
)
def test_what_would_do_something_else_is_left_to_a_person(script: Any, sentence: str) -> None:
    with pytest.raises(Untranslatable, match=sentence):
        translate(script, {}, "", "run.sh", SETTINGS)


@pytest.mark.parametrize("setenv", [{"A-B": "1"}, {"A": "{plant.Other:artifacts:path}"}])
def test_an_environment_that_cant_be_set_is_left_to_a_person(setenv: Dict[str, Any]) -> None:
    with pytest.raises(Untranslatable, match="can't become a shell variable"):
        translate("true", setenv, "", "run.sh", SETTINGS)


@pytest.mark.parametrize("condition", ["always", "exists", 'exists "a"', "onpath $(a)"])
def test_a_condition_that_cant_be_read_is_left_to_a_person(condition: str) -> None:
    with pytest.raises(Untranslatable, match="Skipif can't be read"):
        translate("true", {}, condition, "run.sh", SETTINGS)


def test_a_program_stays_in_the_recipe() -> None:
    assert translate("python3 a.py", {}, "", "run.sh", {}) == Program("exec python3 a.py")
