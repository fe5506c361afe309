"""`edge-agent package` and `edge-agent jobs`, the real commands in processes of their own."""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Dict, List

import pytest

from edge_agent.cli import main, parse
from edge_agent.errors import InvalidRequest
from edge_agent.manifest import FileEntry
from edge_agent.packaging import package_command
from edge_agent.packaging.aws import upload as s3
from edge_agent.packaging.recipe import check
from edge_agent.runtime.packages.package import Package
from edge_agent.runtime.packages.signature import TrustedKeys
from tests import ROOT
from tests.fakes import micro
from tests.packaging import graphs
from tests.packaging.test_preparation import pictures

DOCUMENT = ROOT / "docs" / "packaging.md"
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
    packaged, given = Package(desk.out / artifact).manifest, Package(desk.model).manifest
    assert packaged.target is not None
    assert packaged.target.arch == "X86_64"
    added = {"files": given.files, "target": None}
    assert packaged.model_copy(update=added) == given
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


def test_tags_lie_beside_the_recipe_for_publishing(desk: Desk) -> None:
    desk.package("--tag", "line=3", "--tag", "area=")

    assert json.loads(desk.made()["tags.json"]) == {"area": "", "line": "3"}


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


def test_a_list_of_80_columns_keeps_names_and_dates_and_leaves_messages_out(
    desk: Desk, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    long = "a-name-of-" + "many-words-and-" * 3
    named = ["--component-name", "com.example.plant.line3.station.Bolts"]
    desk.package("--precision", "fp16", *named)  # which warns
    desk.package("--job-name", long, *named, out="other")
    told = answer(capsys, "jobs", "list", "--json", *desk.jobs())["ModelPackagingJobs"]
    monkeypatch.setenv("COLUMNS", "80")

    assert main(["jobs", "list", *desk.jobs()]) == 0

    lines = capsys.readouterr().out.splitlines()
    assert all(len(line) <= 80 for line in lines)
    (row,) = [line for line in lines if told[1]["JobName"] in line]
    assert told[1]["CreationTimestamp"][:16].replace("T", " ") in row
    cells = [line.split("│")[1].strip() for line in lines if line.startswith("│")]
    assert long in "".join(cells)
    assert told[1]["StatusMessage"].startswith("The precision fp16")
    assert "precision" not in "".join(lines)


def test_a_list_takes_no_name(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["jobs", "list", "job-1", *desk.jobs()]) == 2

    assert "edge-agent jobs describe job-1" in capsys.readouterr().err


def test_a_repeated_token_makes_nothing_anew(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    assert desk.package("--client-token", "t-1") == 0
    first, before = capsys.readouterr().out, desk.out.stat().st_mtime_ns

    assert desk.package("--client-token", "t-1") == 0
    again = capsys.readouterr()
    assert again.out == first
    assert re.search(r"note: This is job \S+ of \d\d:\d\d UTC again", again.err)
    assert desk.out.stat().st_mtime_ns == before
    assert desk.package("--client-token", "t-1", "--tag", "a=b") == 2
    assert "other parameters" in capsys.readouterr().err


def test_a_failed_job_told_again_says_so_and_how_to_run_it_anew(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    desk.out.mkdir(parents=True)
    assert desk.package("--client-token", "t-1") == 1
    assert "This is job" not in capsys.readouterr().err
    desk.out.rmdir()

    assert desk.package("--client-token", "t-1") == 1
    told = capsys.readouterr().err
    assert "This is job" in told
    assert "nothing was made now. To run it again, use another token." in told
    assert "exists already" in told
    assert desk.package("--client-token", "t-2") == 0


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
        ([], "No target is named"),
        ([*TARGET, "--component-version", "1.0"], "Component: version: "),
        ([*TARGET, "--description", "a" * 257], "Component: description: "),
        ([*TARGET, "--tag", "line"], "expected NAME=VALUE"),
        ([*TARGET, "--tag", "a=1", "--tag", "a=2"], "give every name once"),
        ([*TARGET, "--tag", "a=<b>"], "Component: tags.a: "),
        ([*TARGET, "--tag", "AWS:line=3"], "tags: 'AWS:line' is reserved: tags of AWS"),
        ([*TARGET, *(f"--tag={key}=" for key in range(201))], "at most 200 items"),
        ([*TARGET, "--component-name", ".."], "Component: name: '..' can't name a folder"),
        ([*TARGET, "--agent-component", "."], "Component: agent: '.' can't name a folder"),
        ([*TARGET, "--out", "/"], "'/' can't be made; choose another --out"),
        ([*TARGET, "--out", "bad\udcff"], "OutputFolder must be UTF-8"),
        ([*TARGET, "--job-name", "a b"], "Packaging job: name: "),
        ([*TARGET, "--version-compatible"], "--version-compatible can't be used: only NVIDIA"),
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


def described(
    desk: Desk, capsys: pytest.CaptureFixture[str], name: str = "job-1"
) -> Dict[str, Any]:
    told = answer(capsys, "jobs", "describe", name, "--json", *desk.jobs())
    description: Dict[str, Any] = told["ModelPackagingDescription"]
    return description


def test_a_graph_the_target_can_not_run_makes_the_job_fail_with_the_reason(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    graph = graphs.altered(micro.graph("classification"), opset=18)
    micro.write(desk.model, "classification", graph, version="3")

    assert main(desk.words("--target-device", "jetson_xavier", "--job-name", "job-1")) == 1
    assert "has opset 18; TensorRT 8.5 takes " in capsys.readouterr().err
    job = described(desk, capsys)
    assert job["Status"] == "FAILED"
    assert "has opset 18" in job["StatusMessage"]
    assert not desk.out.exists()


def test_warnings_are_printed_and_kept_with_the_job(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    assert desk.package("--job-name", "job-1", "--precision", "fp16") == 0

    sentence = "The precision fp16 is for NVIDIA targets"
    told = capsys.readouterr().err
    assert f"edge-agent: warning: {sentence}" in told
    assert "edge-agent: note: Memory of an inference unit: " in told
    job = described(desk, capsys)
    assert job["Status"] == "SUCCEEDED"
    assert job["StatusMessage"].startswith(sentence)
    assert job["ModelPackagingConfiguration"]["Greengrass"]["Precision"] == "fp16"


def test_an_nvidia_component_holds_the_graph_and_its_build_settings(desk: Desk) -> None:
    assert main(desk.words("--target-device", "jetson_xavier", "--precision", "fp16")) == 0

    package = Package(desk.out / "artifacts/plant.Bolts/3.0.0/model.zip")
    assert package.read_model() == micro.graph("classification")
    build, target = package.manifest.build, package.manifest.target
    assert build is not None
    assert target is not None
    assert (build.precision, build.timing_cache) == ("fp16", "timing-sm_72-8.5.2.cache")
    assert (target.device, target.trt_ver) == ("jetson_xavier", "8.5.2")


def test_what_an_nvidia_device_may_ask_of_tensorrt_is_told_apart_by_the_token(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    target = json.dumps({"gpu-code": "sm_86", "trt-ver": "10.3.0", "cuda-ver": "12.6"})
    platform = "os=LINUX,arch=X86_64,accelerator=NVIDIA"
    words = ["--target-platform", platform, "--compiler-options", target, "--client-token", "t"]

    assert main(desk.words(*words, "--optimisation-level", "0", "--version-compatible")) == 0
    build = Package(desk.out / "artifacts/plant.Bolts/3.0.0/model.zip").manifest.build
    assert build is not None
    assert (build.optimisation_level, build.version_compatible) == (0, True)
    assert not build.hardware_compatible
    job = answer(capsys, "jobs", "list", "--json", *desk.jobs())["ModelPackagingJobs"][0]["JobName"]
    told = answer(capsys, "jobs", "describe", job, "--json", *desk.jobs())
    asked = told["ModelPackagingDescription"]["ModelPackagingConfiguration"]["Greengrass"]
    assert (asked["OptimisationLevel"], asked["VersionCompatible"]) == (0, True)
    assert "HardwareCompatible" not in asked
    assert main(desk.words(*words, "--optimisation-level", "0", "--hardware-compatible")) == 2
    assert "other parameters" in capsys.readouterr().err


def test_an_onnx_file_and_a_few_words_make_a_component(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    onnx_file, rest = desk.folder / "bolts.onnx", desk.folder / "rest.json"
    onnx_file.write_bytes(micro.graph("anomaly_map"))
    desk.model = onnx_file

    assert desk.package() == 2
    assert "The graph doesn't have name; put them into --manifest" in capsys.readouterr().err
    rest.write_text('{"name": "bolts", "version": "2"}')
    assert desk.package("--manifest", str(rest)) == 0
    assert "edge-agent: warning: The outputs are taken as calibrated" in capsys.readouterr().err
    manifest = Package(desk.out / "artifacts/plant.Bolts/2.0.0/model.zip").manifest
    assert (manifest.name, manifest.task) == ("bolts", "anomaly_map")


def test_one_token_with_other_preparations_is_another_request(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    assert desk.package("--client-token", "t-1") == 0
    for options in (["--precision", "fp16"], ["--optimise"], ["--signing-key", "key.pem"]):
        assert desk.package("--client-token", "t-1", *options) == 2
        assert "other parameters" in capsys.readouterr().err


def test_a_signed_component_is_what_its_key_signed(desk: Desk) -> None:
    key, public = desk.folder / "key.pem", desk.folder / "public.pem"
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", key], check=True)
    subprocess.run(["openssl", "pkey", "-in", key, "-pubout", "-out", public], check=True)

    assert desk.package("--signing-key", str(key)) == 0

    zipped = desk.out / "artifacts/plant.Bolts/3.0.0/model.zip"
    package = Package(zipped, trusted=TrustedKeys.read(public))
    assert package.manifest.name == "classification"
    assert str(package.identity) == "plant.Bolts 3.0.0"
    for record in (desk.folder / "jobs").glob("*.json"):
        assert "key.pem" not in record.read_text()


def test_a_key_that_can_not_sign_makes_the_job_fail(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    assert desk.package("--signing-key", str(desk.folder / "none.pem")) == 1

    assert "none.pem: No such file or directory" in capsys.readouterr().err
    assert not desk.out.exists()


def test_the_same_input_gives_the_same_bytes_whoever_packs_it_where_and_when(
    desk: Desk,
) -> None:
    """Two processes with other time zones, hash seeds, umasks, folders and orders of files."""
    pictures(desk.folder / "pictures", 6)
    twin = desk.folder / "twin"
    shutil.copytree(desk.model, twin / "bolts")
    for number in (5, 3, 1, 0, 4, 2):  # in another order on the disk, and of another age
        (twin / "pictures").mkdir(exist_ok=True)
        name = f"{number:04}.png"
        shutil.copy(desk.folder / "pictures" / name, twin / "pictures" / name)
        os.utime(twin / "pictures" / name, (1e9, 1e9))
    (desk.folder / "key.pem").write_bytes(
        subprocess.check_output(["openssl", "genpkey", "-algorithm", "ed25519"])
    )

    def component(folder: Path, zone: str, umask: int) -> Dict[str, bytes]:
        words = [
            "package", "bolts", "--component-name", "plant.Bolts", "--out", f"made-{zone[:2]}",
            "--target-device", "jetson_xavier", "--precision", "int8",
            "--calibration-images", "pictures", "--golden-images", "pictures",
            "--signing-key", str(desk.folder / "key.pem"), *desk.jobs(),
        ]  # fmt: skip
        environment = {
            **os.environ, "TZ": zone, "PYTHONHASHSEED": str(umask),
            "PYTHONPATH": str(DOCUMENT.parents[1]),
        }  # fmt: skip
        command = shlex.join([sys.executable, "-m", "edge_agent", *words])
        subprocess.run(
            ["sh", "-c", f"umask {umask:03} && {command}"], cwd=folder, env=environment, check=True
        )
        made = folder / f"made-{zone[:2]}"
        files = [path for path in made.rglob("*") if path.is_file()]
        return {str(path.relative_to(made)): path.read_bytes() for path in files}

    first = component(desk.folder, "Asia/Tokyo", 22)
    second = component(twin, "UTC", 77)
    assert first == second
    assert len(first) == 3


def test_an_output_on_s3_is_uploaded_and_leaves_nothing_here(
    desk: Desk, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: List[Any] = []

    def upload(folder: Path, place: str) -> None:
        sent.append((place, sorted(path.name for path in folder.rglob("*") if path.is_file())))

    monkeypatch.setattr(s3, "upload", upload)
    words = ["--target-device", "jetson_xavier", "--job-name", "job-1"]
    at_s3 = [*desk.words(*words), "--out", "s3://plant/models"]

    assert main(at_s3) == 0

    assert "plant.Bolts 3.0.0 in s3://plant/models" in capsys.readouterr().out
    files = ["model.zip", "plant.Bolts-3.0.0.json", "recipe.yaml"]
    assert sent == [("s3://plant/models", files)]
    assert list((desk.folder / "jobs").rglob("model.zip")) == []
    api = described(desk, capsys)["ModelPackagingConfiguration"]["Greengrass"]
    assert api["S3OutputLocation"] == {"Bucket": "plant", "Prefix": "models"}
    assert main([*desk.words(*words), "--out", "s3://"]) == 2
    assert "expected s3://BUCKET/PREFIX" in capsys.readouterr().err


def test_an_upload_that_fails_makes_the_job_fail(
    desk: Desk, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def upload(folder: Path, place: str) -> None:
        raise InvalidRequest("No such bucket.")

    monkeypatch.setattr(s3, "upload", upload)

    assert main([*desk.words(*TARGET), "--out", "s3://plant"]) == 1
    assert "FAILED: No such bucket." in capsys.readouterr().err
    assert list((desk.folder / "jobs").rglob("model.zip")) == []


def test_help_tells_what_every_option_is_for() -> None:
    parser = argparse.ArgumentParser()
    package_command.add_arguments(parser)

    assert [action.dest for action in parser._actions if not action.help] == []
    parser.format_help()  # a stray % would end it


@pytest.mark.parametrize("line", re.findall(r"^edge-agent .+$", DOCUMENT.read_text(), re.MULTILINE))
def test_a_command_the_document_shows_is_understood(line: str) -> None:
    words = shlex.split(line)[1:]
    assert parse(words).command == words[0]
