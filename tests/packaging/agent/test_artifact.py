"""The real agent component: built of wheels from the index, installed without one, serving."""

from __future__ import annotations

import json
import platform
import subprocess
import zipfile
from pathlib import Path
from typing import List

import pytest

from edge_agent import __version__
from edge_agent.errors import InvalidConfiguration
from edge_agent.packaging.agent import artifact
from edge_agent.packaging.agent.artifact import Device, collect_wheels
from edge_agent.packaging.agent.component import ComponentPlan
from edge_agent.packaging.recipe import AGENT, Architecture
from edge_agent.types import ModelState
from tests.fakes import micro
from tests.fakes.agent import Agent
from tests.packaging.agent import tiny_agent

ARCHITECTURE: Architecture = "aarch64" if platform.machine() == "aarch64" else "amd64"


class Installed(Agent):
    """The agent that the component installed, started as its run phase does."""

    def command(self) -> List[str]:
        program = self.folder / "work" / "current" / "bin" / "python3"
        return [str(program), *super().command()[1:]]


def zip_of(folder: Path) -> Path:
    return folder / "artifacts" / AGENT / __version__ / f"edge-agent-{ARCHITECTURE}.zip"


def test_the_artifact_holds_the_wheels_of_this_python_and_their_bill(agent_component: Path) -> None:
    with zipfile.ZipFile(zip_of(agent_component)) as bundle:
        content = json.loads(bundle.read("wheels.json"))
        names = set(bundle.namelist())
        bill = json.loads(bundle.read("bom.cdx.json"))
    wheels = content["pythons"][tiny_agent.PYTHON]
    distributions = {name.split("-")[0] for name in wheels}

    assert names == {
        "install.py",
        "wheels.json",
        "bom.cdx.json",
        *(f"wheels/{w}" for w in wheels),
    }
    assert {"edge_agent", "numpy", "onnxruntime", "grpcio", "cryptography", "pip"} <= distributions
    assert not {"sympy", "coloredlogs", "pytest"} & distributions
    assert len(bill["components"]) == len(wheels)


def test_it_is_installed_without_an_index_and_serves_a_model(
    agent_component: Path, tmp_path: Path
) -> None:
    with zipfile.ZipFile(zip_of(agent_component)) as bundle:
        bundle.extractall(tmp_path / "unpacked")
    tiny_agent.install(tmp_path / "unpacked", tmp_path / "work")
    assert tiny_agent.version(tmp_path / "work") == f"edge-agent {__version__}"
    agent = Installed(tmp_path)
    micro.write(agent.models / "bolts", "classification")
    with agent:
        agent.run("bolts")
        agent.wait_for("bolts", ModelState.RUNNING)
    prefix = subprocess.run(
        [agent.command()[0], "-c", "import edge_agent; print(edge_agent.__file__)"],
        cwd=tmp_path, check=True, stdout=subprocess.PIPE, text=True,
    ).stdout  # fmt: skip

    assert prefix.startswith(str(tmp_path / "work" / "agents"))
    (carried,) = (tmp_path / "unpacked" / "wheels").glob("pip-*.whl")
    pip = [agent.command()[0], "-m", "pip", "--version"]
    said = subprocess.run(pip, check=True, stdout=subprocess.PIPE, text=True).stdout
    assert said.split()[1] == carried.name.split("-")[1], "it came from the device's Python"


def test_conditions_of_dependencies_are_those_of_the_device(tmp_path: Path) -> None:
    """pip evaluates them for the Python it runs on, so that it brings too much or too little."""
    (tmp_path / "device").mkdir()
    needs = (
        "Requires-Dist: old; python_version < '3.9'\nRequires-Dist: new; python_version >= '3.9'\n"
        "Requires-Dist: arm[fast]; platform_machine == 'aarch64'\nRequires-Dist: sympy\n"
    )
    own = tiny_agent.wheel(tmp_path, "edge_agent", "1.0", {}, needs)
    for name in ("old", "new", "sympy", "Fast_One"):
        tiny_agent.wheel(tmp_path / "device", name, "1.0", {})
    extra = "Provides-Extra: fast\nRequires-Dist: fast.one; extra == 'fast'\n"
    tiny_agent.wheel(tmp_path / "device", "arm", "1.0", {}, extra)
    found = {}
    for architecture, python in (("aarch64", "3.8"), ("amd64", "3.12")):
        device = Device(architecture, python)  # type: ignore[arg-type]
        wheels = collect_wheels(own, device, tmp_path / "limits.txt", tmp_path / "device")
        found[python] = [path.name.split("-")[0] for path in wheels]

    assert found == {
        "3.8": ["Fast_One", "arm", "edge_agent", "old"], "3.12": ["edge_agent", "new"],
    }  # fmt: skip


def test_a_jetson_uses_its_own_opencv(tmp_path: Path) -> None:
    needs = "Requires-Dist: opencv_python_headless>=4.8\n"
    own = tiny_agent.wheel(tmp_path, "edge_agent", "1.0", {}, needs)
    (jetson,) = ComponentPlan("plant.Agent", ("aarch64",), ("3.11",), has_jetson=True).devices(
        "aarch64"
    )

    assert jetson.python == "3.8"
    assert collect_wheels(own, jetson, tmp_path / "limits.txt", tmp_path) == [own]


def test_wheels_that_several_pythons_share_are_carried_once(tmp_path: Path) -> None:
    own, engine = tiny_agent.wheels(tmp_path / "wheels", "1.0.0")
    other = tiny_agent.wheel(tmp_path, "onnxruntime", "1.0", {"onnxruntime/__init__.py": "#"})
    facts = {"name": "plant.Agent", "version": "1.0.0"}
    artifact.write(tmp_path / "a.zip", {"3.8": [own], "3.11": [own, engine]}, facts, 1)
    with zipfile.ZipFile(tmp_path / "a.zip") as bundle:
        content = json.loads(bundle.read("wheels.json"))
        carried = [name for name in bundle.namelist() if name.startswith("wheels/")]

    assert content["pythons"] == {"3.8": [own.name], "3.11": [own.name, engine.name]}
    assert carried == [f"wheels/{own.name}.xz", f"wheels/{engine.name}.xz"]
    with pytest.raises(InvalidConfiguration, match="two different files onnxruntime"):
        artifact.write(tmp_path / "b.zip", {"3.8": [other], "3.11": [engine]}, facts, 1)


def test_a_version_that_the_device_cannot_use_is_refused(tmp_path: Path) -> None:
    """pip saw no reason for another one, as it left out the condition."""
    own = tiny_agent.wheel(tmp_path, "edge_agent", "1.0", {}, "Requires-Dist: engine<2\n")
    (tmp_path / "device").mkdir()
    tiny_agent.wheel(tmp_path / "device", "engine", "2.1", {})

    with pytest.raises(InvalidConfiguration, match=r"engine-2\.1.*versions <2 are needed"):
        collect_wheels(own, Device("amd64", "3.8"), tmp_path / "limits.txt", tmp_path / "device")


def test_a_distribution_without_a_wheel_for_the_device_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    own = tiny_agent.wheel(tmp_path, "edge_agent", "1.0", {}, "Requires-Dist: engine>=3\n")

    with pytest.raises(InvalidConfiguration, match="No matching distribution found for engine>=3"):
        collect_wheels(own, Device("amd64", "3.9"), tmp_path / "limits.txt", tmp_path / "device")
