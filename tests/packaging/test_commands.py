"""`edge-agent package` and `edge-agent jobs`, the real commands in processes of their own."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Dict, List

import pytest

from edge_agent.cli import main, parse
from edge_agent.manifest import FileEntry
from edge_agent.packaging.recipe import check
from edge_agent.runtime.package import Package
from tests import micro

DOCUMENT = Path(__file__).parents[2] / "docs" / "packaging.md"
TARGET = ["--target-platform", "os=LINUX,arch=X86_64"]


class Desk:
    """A model package, a folder of jobs, a place for components."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.model = micro.write(folder / "bolts", "classification", version="3")
        self.out = folder / "made" / "component"

    def words(self, *options: str, out: str = "component") -> List[str]:
        return [
            "package", str(self.model), "--component-name", "plant.Bolts",
            "--out", str(self.folder / "made" / out), *options, *self.jobs(),
        ]  # fmt: skip

    def jobs(self) -> List[str]:
        return ["--jobs-folder", str(self.folder / "jobs")]

    def package(self, *options: str, out: str = "component") -> int:
        return main(self.words(*TARGET, *options, out=out))

    def made(self) -> Dict[str, bytes]:
        files = [path for path in self.out.rglob("*") if path.is_file()]
        return {str(path.relative_to(self.out)): path.read_bytes() for path in files}


@pytest.fixture(name="desk")
def _desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def answer(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    capsys.readouterr()
    assert main(list(words)) == 0
    return json.loads(capsys.readouterr().out)


def test_a_component_is_a_recipe_twice_and_a_zip(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    assert desk.package("--job-name", "job-1") == 0

    assert capsys.readouterr().out == f"Job job-1 SUCCEEDED: plant.Bolts 3.0.0 in {desk.out}\n"
    artifact = "artifacts/plant.Bolts/3.0.0/model.zip"
    recipe = "recipes/plant.Bolts-3.0.0.json"
    assert set(desk.made()) == {artifact, recipe, "recipe.yaml"}
    assert check(desk.made()[recipe]).ComponentDescription == "Model classification"
    assert Package(desk.out / artifact).manifest == Package(desk.model).manifest
    assert [path.name for path in desk.out.parent.iterdir()] == ["component"]


def test_what_is_asked_for_stands_in_the_recipe(desk: Desk) -> None:
    assert (
        desk.package(
            "--component-version",
            "0.7.1",
            "--description",
            "Line 3",
            "--agent-component",
            "plant.A",
        )
        == 0
    )

    recipe = check(desk.made()["recipes/plant.Bolts-0.7.1.json"])
    assert recipe.ComponentDescription == "Line 3"
    assert list(recipe.ComponentDependencies) == ["plant.A"]
    assert recipe.Manifests[0].Platform.architecture == "amd64"


def test_a_job_is_described_in_the_words_of_the_api(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    desk.package("--job-name", "job-1", "--tag", "line=3", "--tag", "area=")

    told = answer(capsys, "jobs", "describe", "job-1", "--json", *desk.jobs())
    job = told["ModelPackagingDescription"]
    assert job.pop("CreationTimestamp") <= job.pop("LastUpdatedTimestamp")
    component = {"ComponentName": "plant.Bolts", "ComponentVersion": "3.0.0"}
    assert job == {
        "JobName": "job-1",
        "ProjectName": "classification",
        "ModelVersion": "3",
        "Status": "SUCCEEDED",
        "StatusMessage": "",
        "ModelPackagingConfiguration": {
            "Greengrass": {
                **component,
                "TargetPlatform": {"Os": "LINUX", "Arch": "X86_64"},
                "CompilerOptions": '{"mcpu": "core-avx2"}',
                "ComponentDescription": "Model classification",
                "Tags": [{"Key": "area", "Value": ""}, {"Key": "line", "Value": "3"}],
                "OutputFolder": str(desk.out),
                "AgentComponent": "aws.iot.lookoutvision.EdgeAgent",
            }
        },
        "ModelPackagingOutputDetails": {"Greengrass": component},
    }


def test_jobs_are_listed_page_by_page(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(3):
        desk.package("--job-name", f"job-{number}", out=str(number))
    words = ["jobs", "list", "--json", "--max-results", "2", *desk.jobs()]

    first = answer(capsys, *words)
    second = answer(capsys, *words, "--next-token", first["NextToken"])

    listed = [*first["ModelPackagingJobs"], *second["ModelPackagingJobs"]]
    assert [job["JobName"] for job in listed] == ["job-2", "job-1", "job-0"]
    assert "NextToken" not in second


def test_tables_name_jobs_and_the_next_page(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    desk.package("--job-name", "job-1")
    desk.package("--job-name", "job-2", out="other")
    capsys.readouterr()

    assert main(["jobs", "list", "--max-results", "1", *desk.jobs()]) == 0
    text = capsys.readouterr().out
    assert "job-2" in text
    assert "job-1" not in text
    assert "--next-token " in text
    assert main(["jobs", "describe", "job-1", *desk.jobs()]) == 0
    assert "SUCCEEDED" in capsys.readouterr().out


def test_a_repeated_token_makes_nothing_anew(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    assert desk.package("--client-token", "t-1") == 0
    first, before = capsys.readouterr().out, desk.out.stat().st_mtime_ns

    assert desk.package("--client-token", "t-1") == 0
    assert capsys.readouterr().out == first
    assert desk.out.stat().st_mtime_ns == before
    assert desk.package("--client-token", "t-1", "--tag", "a=b") == 2
    assert "other parameters" in capsys.readouterr().err


def test_one_token_in_several_processes_at_once_is_one_job(desk: Desk) -> None:
    command = [sys.executable, "-m", "edge_agent", *desk.words(*TARGET, "--client-token", "t-1")]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(3)]
    outputs = [process.communicate(timeout=60)[0] for process in processes]

    assert [process.returncode for process in processes] == [0, 0, 0]
    assert len({output.split()[1] for output in outputs}) == 1
    assert len(list((desk.folder / "jobs").glob("*.json"))) == 1


def test_a_damaged_package_makes_the_job_fail_and_no_component(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    model = desk.model / "model.onnx"
    model.write_bytes(model.read_bytes()[:-1] + b"x")

    assert desk.package("--job-name", "job-1") == 1
    assert "Job job-1 FAILED: " in capsys.readouterr().err
    job = answer(capsys, "jobs", "describe", "job-1", "--json", *desk.jobs())
    assert job["ModelPackagingDescription"]["Status"] == "FAILED"
    assert "altered or damaged" in job["ModelPackagingDescription"]["StatusMessage"]
    assert "ModelPackagingOutputDetails" not in job["ModelPackagingDescription"]
    assert list(desk.out.parent.iterdir()) == []


def test_without_pyyaml_the_command_says_what_to_install(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)

    assert desk.package() == 1
    assert "pip install 'edge-agent[package]'" in capsys.readouterr().err
    assert not desk.out.exists()


def test_a_folder_that_can_not_be_written_is_named(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    desk.out.parent.write_text("")

    assert desk.package() == 1
    assert f"{desk.out} can't be written: Not a directory." in capsys.readouterr().err


def test_what_is_there_already_is_not_touched(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    desk.out.mkdir(parents=True)

    assert desk.package() == 1
    assert "exists already; choose another --out" in capsys.readouterr().err
    assert desk.made() == {}


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ([], "No target came"),
        ([*TARGET, "--component-version", "1.0"], "Component: version: "),
        ([*TARGET, "--description", "a" * 257], "Component: description: "),
        ([*TARGET, "--tag", "line"], "expected KEY=VALUE"),
        ([*TARGET, "--tag", "a=1", "--tag", "a=2"], "each key once"),
        ([*TARGET, "--tag", "a=<b>"], "Component: tags.a: "),
        ([*TARGET, "--job-name", "a b"], "Packaging job: name: "),
    ],
)
def test_a_wrong_option_is_told_before_there_is_a_job(
    desk: Desk, capsys: pytest.CaptureFixture[str], options: List[str], sentence: str
) -> None:
    assert main(desk.words(*options)) == 2

    assert sentence in capsys.readouterr().err
    assert answer(capsys, "jobs", "list", "--json", *desk.jobs()) == {"ModelPackagingJobs": []}


def test_a_model_whose_version_is_no_number_needs_one_for_its_component(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    micro.write(desk.model, "classification", version="2026-11")

    assert desk.package() == 2
    assert "name the component's with --component-version" in capsys.readouterr().err
    assert desk.package("--component-version", "2026.11.0") == 0


def test_a_job_killed_in_the_middle_is_failed_and_leaves_no_half_component(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    size = 192 * 1024 * 1024
    with (desk.model / "weights.bin").open("wb") as file:
        file.truncate(size)
    graph = (desk.model / "model.onnx").read_bytes()
    files = [FileEntry.of("model.onnx", graph), FileEntry.of("weights.bin", bytes(size))]
    listed = [entry.model_dump() for entry in files]
    micro.write(desk.model, "classification", version="3", files=listed)
    command = [sys.executable, "-m", "edge_agent", *desk.words(*TARGET, "--job-name", "job-1")]
    with subprocess.Popen(command) as process:
        end = time.monotonic() + 60.0
        while not list(desk.folder.glob("made/.component.*/artifacts/*/*/model.zip")):
            assert time.monotonic() < end
            assert process.poll() is None
        process.kill()

    assert not desk.out.exists()
    (job,) = answer(capsys, "jobs", "list", "--json", *desk.jobs())["ModelPackagingJobs"]
    assert (job["Status"], job["StatusMessage"]) == (
        "FAILED",
        "The process that ran the job has ended.",
    )
    assert list(desk.out.parent.iterdir()) == []
    assert desk.package("--job-name", "job-2") == 0


@pytest.mark.parametrize("line", re.findall(r"^edge-agent .+$", DOCUMENT.read_text(), re.MULTILINE))
def test_a_command_the_document_shows_is_understood(line: str) -> None:
    words = shlex.split(line)[1:]
    assert parse(words).command == words[0]
