"""A model component's program as a nucleus runs it: the recipe's own script, with real agents."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List

import pytest

import edge_agent
from edge_agent.packaging import archive
from edge_agent.packaging.draft import open_draft
from edge_agent.packaging.recipe import model_component
from edge_agent.types import ModelState
from tests.fakes import micro, signatures
from tests.fakes.agent import Agent

AGENT = "plant.Agent"
NAME = "plant.Bolts"
SOURCE = Path(edge_agent.__file__).resolve().parents[1]


class Nucleus:
    """What a nucleus does with a model component: unpack, fill in, run, stop.

    packed: nothing is unpacked, as by nucleus lite in a local deployment.
    """

    def __init__(self, root: Path) -> None:
        self.root, self.packed = root, False
        self.work = root / "work" / NAME
        self.work.mkdir(parents=True)
        self.agent = root / "work" / AGENT
        self.agent.mkdir(parents=True)
        self.records = self.agent / "models.d"
        self.record = self.records / f"{NAME}.json"
        self.log = root / "component.log"
        self.processes: List[subprocess.Popen[bytes]] = []

    def _run(
        self, phase: str, version: str, autostart: str, threshold: str
    ) -> subprocess.Popen[bytes]:
        package = self.package(version)
        recipe = model_component(NAME, f"{version}.0.0", "Bolts", "amd64", AGENT)
        script = recipe.Manifests[0].Lifecycle.phases[phase].Script
        for variable, value in {
            "{artifacts:decompressedPath}": str(self.root / "unarchived" / NAME / version),
            "{artifacts:path}": str(package.parent),
            "{work:path}": f"{self.work}/",
            "{configuration:/Records}": "models.d",
            "{configuration:/Autostart}": autostart,
            "{configuration:/Threshold}": threshold,
        }.items():
            script = script.replace(variable, value)
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                ["sh", "-c", script], stdout=log, stderr=log, env={**os.environ, "PATH": path}
            )
        self.processes.append(process)
        return process

    def package(self, version: str) -> Path:
        """The package, made when it isn't there yet: a folder, or the zip."""
        archived = self.root / "artifacts" / NAME / version / "model.zip"
        folder = self.root / "unarchived" / NAME / version / "model"
        if not archived.exists():
            package = micro.write(self.root / f"bolts-{version}", "classification", version=version)
            archived.parent.mkdir(parents=True)
            archive.write(archived, open_draft(package, None))
            if not self.packed:
                with zipfile.ZipFile(archived) as bundle:
                    bundle.extractall(folder)
        return archived if self.packed else folder

    def serves(self, version: str) -> bool:
        try:
            record: Any = json.loads(self.record.read_bytes())
        except FileNotFoundError:
            return False
        manifest: Any = json.loads((Path(record["package"]) / "manifest.json").read_bytes())
        return bool(manifest["version"] == version)

    def values(self) -> Dict[str, Any]:
        """What the record says."""
        return {"component_stopped": None, **json.loads(self.record.read_bytes())}

    def damage(self, version: str, how: str) -> None:
        """Spoil the package of a version."""
        package = self.package(version)
        folder = self.root / "damaged"
        shutil.unpack_archive(package, folder) if self.packed else shutil.copytree(package, folder)
        if how == "manifest":
            (folder / "manifest.json").write_text("{")
        elif how == "missing":
            (folder / "model.onnx").unlink()
        else:
            (folder / "model.onnx").write_bytes((folder / "model.onnx").read_bytes()[:-1] + b"?")
        if self.packed:
            package.unlink()
            shutil.make_archive(str(package.with_suffix("")), "zip", folder)
        else:
            shutil.rmtree(package)
            folder.rename(package)

    def has_agent(self, models: Dict[str, Any]) -> None:
        """Install an agent that last had these settings of models."""
        python = self.agent / "current" / "bin" / "python3"
        python.parent.mkdir(parents=True, exist_ok=True)
        python.write_text(f'#!/bin/sh\nexec env PYTHONPATH={SOURCE} {sys.executable} "$@"\n')
        python.chmod(0o755)
        (self.agent / "last-good.json").write_text(json.dumps({"models": models}))

    def install(self, version: str, threshold: str = "") -> int:
        """Run the phase `install`; return how it ended."""
        return self._run("install", version, "true", threshold).wait(60)

    def start(
        self, version: str, autostart: str = "true", threshold: str = ""
    ) -> subprocess.Popen[bytes]:
        return self._run("run", version, autostart, threshold)


@pytest.fixture(name="nucleus")
def _nucleus(tmp_path: Path) -> Iterator[Nucleus]:
    nucleus = Nucleus(tmp_path)
    yield nucleus
    for process in nucleus.processes:
        process.kill()
        process.wait(10)


def until(condition: Callable[[], bool], within_s: float = 60.0) -> None:
    end = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def stop(process: subprocess.Popen[bytes]) -> None:
    """As both nuclei do: SIGTERM, then 5 s."""
    process.terminate()
    assert process.wait(5) == 0


def names(agent: Agent) -> List[str]:
    with agent.client() as client:
        return [info.name for info in client.models()]


@pytest.mark.parametrize(("first", "packed"), [("agent", True), ("component", False)])
def test_a_model_comes_runs_and_goes_with_its_component(
    nucleus: Nucleus, first: str, packed: bool
) -> None:
    nucleus.packed = packed
    agent = Agent(nucleus.root, "--records", str(nucleus.records))
    try:
        if first == "agent":
            agent.start()
        process = nucleus.start("1")
        if first == "component":
            until(lambda: nucleus.serves("1"))
            agent.start()
        agent.wait_for(NAME, ModelState.RUNNING)
        stop(process)
        until(lambda: names(agent) == [])
    finally:
        agent.stop()

    assert list(nucleus.records.iterdir()) == []


def test_a_model_waits_for_its_start_unless_it_shall_start_by_itself(nucleus: Nucleus) -> None:
    nucleus.start("1", autostart="false")
    with Agent(nucleus.root, "--records", str(nucleus.records)) as agent:
        agent.wait_for(NAME, ModelState.STOPPED)
        agent.run(NAME)
        agent.wait_for(NAME, ModelState.RUNNING)


def test_a_model_changes_over_when_versions_overlap(nucleus: Nucleus) -> None:
    with Agent(nucleus.root, "--records", str(nucleus.records)) as agent:
        old = nucleus.start("1")
        agent.wait_for(NAME, ModelState.RUNNING)
        new = nucleus.start("2")
        until(lambda: nucleus.serves("2"))
        stop(old)

        assert nucleus.serves("2")
        agent.wait_for(NAME, ModelState.RUNNING)
        assert "was removed" not in agent.log()
        stop(new)
        until(lambda: names(agent) == [])


def test_a_component_that_stops_while_the_agent_is_away_costs_no_model(nucleus: Nucleus) -> None:
    """As when the nucleus stops what depends on an agent that has crashed, and starts it later."""
    results = nucleus.root / "results"
    arguments = "--set", f"results.folder={results}", "--set", "models.resume=true"
    agent = Agent(nucleus.root, "--records", str(nucleus.records), *arguments)
    with agent:
        process = nucleus.start("1", autostart="false")
        agent.wait_for(NAME, ModelState.STOPPED)
        agent.run(NAME)
        agent.wait_for(NAME, ModelState.RUNNING)
        until((results / "running.json").exists)
        agent.kill()
        stop(process)
        agent.start()
        agent.wait_for(NAME, ModelState.RUNNING)
        process = nucleus.start("1", autostart="false")
        until(lambda: "component_stopped" not in json.loads(nucleus.record.read_bytes()))
        stop(process)  # this time the agent runs: it is an order
        until(lambda: names(agent) == [])

    until(lambda: not nucleus.record.exists())
    assert agent.log().count("was removed") == 1


def test_a_new_version_starts_after_the_old_one_was_stopped(nucleus: Nucleus) -> None:
    old = nucleus.start("1")
    until(lambda: nucleus.serves("1"))
    stop(old)
    nucleus.start("2")

    until(lambda: nucleus.serves("2"))


def test_the_same_version_started_twice_keeps_the_later_record(nucleus: Nucleus) -> None:
    first = nucleus.start("1")
    until(lambda: nucleus.serves("1"))
    before = nucleus.record.stat().st_ino
    nucleus.start("1")
    until(lambda: nucleus.record.stat().st_ino != before)
    stop(first)

    assert nucleus.serves("1")


def test_the_old_version_takes_over_again_when_the_new_one_goes(nucleus: Nucleus) -> None:
    nucleus.start("1")
    until(lambda: nucleus.serves("1"))
    new = nucleus.start("2")
    until(lambda: nucleus.serves("2"))
    stop(new)

    until(lambda: nucleus.serves("1"))


def test_a_record_is_written_anew_when_the_agents_folder_was_made_anew(nucleus: Nucleus) -> None:
    process = nucleus.start("1")
    until(lambda: nucleus.serves("1"))
    shutil.rmtree(nucleus.agent)
    until(lambda: "trying again" in nucleus.log.read_text())
    nucleus.agent.mkdir()
    until(lambda: nucleus.serves("1"))
    stop(process)

    assert json.loads(nucleus.record.read_bytes())["component_stopped"]


def test_a_component_waits_for_the_agents_folder_and_says_so_once(nucleus: Nucleus) -> None:
    nucleus.agent.rmdir()
    nucleus.start("1")
    until(lambda: "trying again" in nucleus.log.read_text())
    nucleus.agent.mkdir()
    until(lambda: nucleus.serves("1"))

    assert nucleus.log.read_text().count("trying again") == 1


def test_a_record_can_be_read_by_an_agent_of_another_user(nucleus: Nucleus) -> None:
    nucleus.start("1")
    until(lambda: nucleus.serves("1"))

    assert nucleus.record.stat().st_mode & 0o777 == 0o644
    assert [path.name for path in nucleus.records.iterdir()] == [f"{NAME}.json"]


def test_a_component_stops_while_the_agents_folder_is_gone(nucleus: Nucleus) -> None:
    process = nucleus.start("1")
    until(lambda: nucleus.serves("1"))
    shutil.rmtree(nucleus.agent)

    stop(process)


def test_a_threshold_of_the_component_counts_in_place_of_the_packages(nucleus: Nucleus) -> None:
    nucleus.start("1", threshold="0.62")
    with Agent(nucleus.root, "--records", str(nucleus.records)) as agent:
        assert "Threshold 0.62" in agent.wait_for(NAME, ModelState.RUNNING).message


@pytest.mark.parametrize("threshold", ["much", "1.5", "nan", "0,5"])
def test_a_threshold_that_is_none_ends_the_component_with_an_error(
    nucleus: Nucleus, threshold: str
) -> None:
    assert nucleus.install("1", threshold) == 1
    assert f"{threshold!r} isn't a number from 0 to 1" in nucleus.log.read_text()
    assert nucleus.start("1", threshold=threshold).wait(60) == 2
    assert not nucleus.record.exists()


def test_a_wrong_threshold_keeps_the_last_good_one(nucleus: Nucleus) -> None:
    first = nucleus.start("1", threshold="0.62")
    until(nucleus.record.exists)
    stop(first)
    before = nucleus.values()
    assert nucleus.install("1", "much") == 1
    assert nucleus.values() == before
    nucleus.start("1", threshold="much")
    until(lambda: nucleus.values() == {**before, "component_stopped": None})
    assert "'much' isn't a number from 0 to 1" in nucleus.log.read_text()
    assert "stays registered as it was" in nucleus.log.read_text()


@pytest.mark.parametrize("damage", ["changed", "missing", "manifest"])
@pytest.mark.parametrize("packed", [False, True])
def test_a_damaged_version_fails_its_installation_and_the_last_good_one_stays(
    nucleus: Nucleus, damage: str, packed: bool
) -> None:
    nucleus.packed = packed
    assert nucleus.install("1") == 0
    old = nucleus.start("1")
    until(nucleus.record.exists)
    nucleus.damage("2", damage)
    assert nucleus.install("2") == 1
    assert "ERROR: " in nucleus.log.read_text()
    stop(old)
    for place in ("unarchived", "artifacts"):
        shutil.rmtree(nucleus.root / place / NAME / "1", ignore_errors=True)  # as the nucleus does
    assert nucleus.serves("1")

    nucleus.start("2")  # a nucleus that runs it all the same
    until(lambda: nucleus.values()["component_stopped"] is None)
    assert nucleus.serves("1")
    assert nucleus.install("3") == 0
    nucleus.start("3")
    until(lambda: nucleus.serves("3"))
    assert nucleus.install("3") == 0
    assert len(list((nucleus.work / "packages").iterdir())) == 1


@pytest.mark.parametrize("name", ["model.onnx", "manifest.json"])
@pytest.mark.parametrize("is_missing", [True, False])
def test_a_copy_that_was_damaged_is_made_anew(
    nucleus: Nucleus, name: str, is_missing: bool
) -> None:
    assert nucleus.install("1") == 0
    kept = next((nucleus.work / "packages").iterdir())
    before = {path: path.read_bytes() for path in kept.iterdir()}
    if is_missing:
        (kept / name).unlink()
    else:
        (kept / name).write_bytes(before[kept / name][:-1] + b"?")
    assert nucleus.install("1") == 0
    assert list(kept.parent.iterdir()) == [kept]
    assert {path: path.read_bytes() for path in kept.iterdir()} == before


def test_the_agent_that_is_installed_says_whether_it_would_serve_the_package(
    nucleus: Nucleus,
) -> None:
    signatures.key(nucleus.root, "plant")
    nucleus.has_agent({"trusted_keys": str(nucleus.root / "plant.pem")})
    assert nucleus.install("1") == 1
    assert "isn't signed" in nucleus.log.read_text()
    nucleus.has_agent({})
    assert nucleus.install("1") == 0
    assert "can serve as model plant.Bolts" in nucleus.log.read_text()


def test_a_setting_that_is_no_switch_ends_the_component_with_an_error(nucleus: Nucleus) -> None:
    process = nucleus.start("1", autostart="perhaps")

    assert process.wait(60) == 2
    assert "--autostart" in nucleus.log.read_text()


def test_the_program_needs_nothing_but_python(nucleus: Nucleus) -> None:
    program = nucleus.package("1") / "register.py"
    bare = [sys.executable, "-I", "-S", str(program), "--help"]  # no installed packages

    assert subprocess.run(bare, stdout=subprocess.DEVNULL, check=False).returncode == 0
