"""`edge-agent component build`: what it refuses, where it writes, how `gdk` calls it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Tuple

import pytest
import yaml

from edge_agent import __version__
from edge_agent.cli import main
from edge_agent.packaging.agent import component_command
from edge_agent.packaging.agent.component import PROJECT, ComponentPlan
from edge_agent.packaging.recipe import AGENT

IMAGE = ("--container", "edge-agent:jetson")  # nothing to collect, so that it's quick


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["component", "build", *arguments]) == 2
    return capsys.readouterr().err


def test_the_folder_is_written_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "agent"
    assert main(["component", "build", "--out", str(out), *IMAGE]) == 0

    assert [path.name for path in (out / "recipes").iterdir()] == [f"{AGENT}-{__version__}.json"]
    recipe = json.loads((out / "recipes" / f"{AGENT}-{__version__}.json").read_bytes())
    assert yaml.safe_load((out / "recipe.yaml").read_text()) == recipe
    assert [path.name for path in tmp_path.iterdir()] == ["agent"]
    assert f"{AGENT} {__version__}" in capsys.readouterr().out


def test_what_is_there_is_not_overwritten(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "exists already" in refusal(capsys, "--out", str(tmp_path), *IMAGE)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((), "Name the folder"),
        (("--python", "3.7"), "expected versions from 3.8"),
        (("--python", "3.11,3.11"), "each once"),
        (("--python", "python3"), "such as 3.8,3.11"),
        (("--component-name", "a b"), "expected 1 to 128 letters"),
        (("--container", "a; reboot"), "isn't an image's name"),
        (("--config", "gone.json"), "gone.json: No such file"),
        (
            ("--jetson", "--architecture", "aarch64", "--python", "3.11"),
            "--python 3.11: --jetson builds for JetPack 5, whose Python is 3.8. Leave --python out",
        ),
        (("--jetson", "--architecture", "aarch64", "--python", "3.8,3.11"), "--python 3.11,3.8: "),
        (("--jetson", "--architecture", "amd64"), "--jetson is for aarch64"),
        ((*IMAGE, "--python", "3.11"), "a --container has its own Python"),
    ],
)
def test_what_makes_no_sense_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: Tuple[str, ...], sentence: str
) -> None:
    where = ("--out", str(tmp_path / "agent")) if arguments else ()

    assert sentence in refusal(capsys, *where, *arguments)
    assert list(tmp_path.iterdir()) == []


def test_gdk_finds_the_files_where_it_looks_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gdk-config.json").write_bytes((PROJECT / "gdk-config.json").read_bytes())
    (tmp_path / "greengrass-build" / "recipes").mkdir(parents=True)  # as gdk does before
    (tmp_path / "greengrass-build" / "artifacts" / AGENT / __version__).mkdir(parents=True)
    assert main(["component", "build", "--gdk", *IMAGE]) == 0

    recipes = {path.name for path in (tmp_path / "greengrass-build" / "recipes").iterdir()}
    assert recipes == {"recipe.yaml", f"{AGENT}-{__version__}.json"}
    assert (tmp_path / "greengrass-build" / "artifacts" / AGENT / __version__).is_dir()


def test_gdk_may_name_the_component_but_not_another_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "gdk-config.json can't be used" in refusal(capsys, "--gdk", *IMAGE)
    for version, code in ((__version__, 0), ("NEXT_PATCH", 2)):
        config = {"component": {"plant.Agent": {"version": version}}}
        (tmp_path / "gdk-config.json").write_text(json.dumps(config))
        assert main(["component", "build", "--gdk", *IMAGE]) == code

    assert "the project's is" in capsys.readouterr().err
    recipes = tmp_path / "greengrass-build" / "recipes"
    assert (recipes / f"plant.Agent-{__version__}.json").exists()


def test_each_artifact_is_shown_with_its_pythons(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def write(folder: Path, plan: ComponentPlan) -> None:
        artifacts = folder / "artifacts" / plan.name / __version__
        artifacts.mkdir(parents=True)
        for architecture in plan.architectures:
            (artifacts / f"edge-agent-{architecture}.zip").write_bytes(b"")

    monkeypatch.setattr(component_command, "write", write)
    words = "component", "build", "--jetson", "--python", "3.10,3.11"
    assert main([*words, "--out", str(tmp_path / "agent")]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == [
        "edge-agent-amd64.zip: 0.0 MiB, for Python 3.11, 3.10",
        "edge-agent-aarch64.zip: 0.0 MiB, for Python 3.8 (JetPack 5 has no other)",
    ]
