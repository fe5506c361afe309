"""The agent's install phase, run as a nucleus does: twice, interrupted, damaged, two at once."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Dict, List

import pytest

from edge_agent.packaging.archive import write_zip
from tests.packaging.agent import tiny_agent
from tests.packaging.agent.tiny_agent import component, environment, install, refusal, start


def versions(work: Path) -> List[str]:
    return sorted(path.name.split("-")[0] for path in (work / "agents").iterdir())


def device_python(folder: Path, script: str) -> Dict[str, str]:
    """The environment of a device that has another Python, 3.99."""
    program = folder / "bin" / "python3.99"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return environment(PATH=f"{program.parent}:{environment()['PATH']}")


@pytest.fixture(name="work")
def _work(tmp_path: Path) -> Path:
    return tmp_path / "work's folder"  # a name that a shell would stumble over


@pytest.fixture(name="old", scope="module")
def _old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A work folder whose current version is, and stays, 1.0.0; made from within the zip."""
    folder = tmp_path_factory.mktemp("old")
    component(folder, "1.0.0")
    install(folder / "1.0.0.zip", folder / "work")
    return folder / "work"


def test_a_second_installation_finds_nothing_to_do(tmp_path: Path, old: Path) -> None:
    before = (old / "current").resolve().stat().st_mtime_ns
    log = install(component(tmp_path, "1.0.0"), old)

    assert log == f"{(old / 'current').resolve().name} is installed already; nothing to do.\n"
    assert (old / "current").resolve().stat().st_mtime_ns == before
    assert tiny_agent.version(old) == "edge-agent 1.0.0"


def test_wherever_an_update_is_killed_the_old_version_works_and_the_next_run_completes_it(
    tmp_path: Path, work: Path
) -> None:
    install(component(tmp_path, "1.0.0"), work)
    (work / "agents" / "0.9.0" / "venv").mkdir(parents=True)
    update = component(tmp_path, "2.0.0")
    late = "input(); from edge_agent import late; print(late.VERSION)"
    running = subprocess.Popen(
        [str(work / "current" / "bin" / "python3"), "-c", late],
        cwd=work, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment(),
    )  # fmt: skip
    for point in ("Checking 2 wheels", "Making a virtual environment", "Installing the wheels"):
        process = start(update, work)
        assert process.stdout is not None
        assert any(point in line for line in process.stdout)
        process.kill()
        process.communicate(timeout=60)  # its programs end by themselves
        assert tiny_agent.version(work) == "edge-agent 1.0.0"
    log = install(update, work)
    said, _ = running.communicate("\n", timeout=20)

    assert "nothing to do" not in log
    assert tiny_agent.version(work) == "edge-agent 2.0.0"
    assert versions(work) == ["1.0.0", "2.0.0"]  # 0.9.0 is removed, what may still run is kept
    assert said.strip() == "1.0.0", "a running agent got modules of the new version"
    assert sorted(path.name for path in work.iterdir()) == ["agents", "current", "install.lock"]


def test_a_half_made_switch_is_completed(tmp_path: Path, old: Path) -> None:
    current = (old / "current").resolve()
    (old / "current").unlink()
    (old / "current.new").symlink_to("nowhere")
    install(component(tmp_path, "1.0.0"), old)

    assert (old / "current").resolve() == current
    assert not (old / "current.new").is_symlink()


@pytest.mark.parametrize("damage", ["another file", "cut off", "missing"])
def test_a_damaged_wheel_is_refused_and_the_old_version_stays(
    tmp_path: Path, old: Path, damage: str
) -> None:
    update = component(tmp_path, "2.0.0")
    packed = update / "wheels" / "onnxruntime-1.0-py3-none-any.whl.xz"
    if damage == "another file":
        other = tiny_agent.wheel(tmp_path, "onnxruntime", "1.0", {"onnxruntime/__init__.py": "#"})
        packed.write_bytes(tiny_agent.artifact.pack(other, 1)[2])
    elif damage == "cut off":
        packed.write_bytes(packed.read_bytes()[:-20])
    else:
        packed.unlink()
    sentence = refusal(update, old)

    assert sentence.startswith("Can't install: onnxruntime-1.0-py3-none-any.whl is")
    assert "deploy it again" in sentence
    assert tiny_agent.version(old) == "edge-agent 1.0.0"


@pytest.mark.parametrize("member", ["wheels/onnxruntime-1.0-py3-none-any.whl.xz", "wheels.json"])
@pytest.mark.parametrize("damage", ["changed", "missing"])
def test_a_damaged_zip_is_refused_and_the_old_version_stays(
    tmp_path: Path, old: Path, member: str, damage: str
) -> None:
    component(tmp_path, "2.0.0")
    update = tmp_path / "2.0.0.zip"
    with zipfile.ZipFile(update) as whole:
        members = {info: whole.read(info) for info in whole.namelist()}
    content = members.pop(member)
    if damage == "missing":
        write_zip(update, members.items())
    else:
        update.write_bytes(update.read_bytes().replace(content[:40], content[:39] + b"?"))

    assert f"{Path(member).name.replace('.xz', '')} is damaged" in refusal(update, old)
    assert tiny_agent.version(old) == "edge-agent 1.0.0"


def test_an_agent_that_does_not_start_is_not_switched_to(tmp_path: Path, old: Path) -> None:
    update = component(tmp_path, "2.0.0")
    broken = {"onnxruntime/__init__.py": "raise ImportError('no libcudart')"}
    other = tiny_agent.wheel(tmp_path, "onnxruntime", "1.0", broken)
    digest, member, packed = tiny_agent.artifact.pack(other, 1)
    (update / member).write_bytes(packed)
    listed = update / "wheels.json"
    was = tiny_agent.artifact.pack(tmp_path / "wheels-2.0.0" / other.name, 1)[0]
    listed.write_text(listed.read_text().replace(was, digest))

    assert "The agent doesn't start: " in refusal(update, old)
    assert tiny_agent.version(old) == "edge-agent 1.0.0"


def test_two_at_once_wait_for_each_other(tmp_path: Path, work: Path) -> None:
    made = component(tmp_path, "1.0.0")
    processes = [start(made, work) for _ in range(2)]
    logs = sorted((process.communicate(timeout=100)[0] for process in processes), key=len)

    assert [process.returncode for process in processes] == [0, 0]
    assert "waiting for it" in logs[0]
    assert "nothing to do" in logs[0]
    assert "leads to 1.0.0" in logs[1]


def test_a_program_that_outlives_its_killed_installation_is_waited_for(
    tmp_path: Path, old: Path
) -> None:
    """Otherwise it goes on writing where the next run has begun anew."""
    begun, gate = tmp_path / "begun", tmp_path / "gate"
    os.mkfifo(gate)
    env = device_python(tmp_path, f"touch '{begun}'; read line < '{gate}'; exit 1")
    killed = start(component(tmp_path, "2.0.0", python="3.99"), old, env)
    end = time.monotonic() + 30
    while not begun.exists():
        assert time.monotonic() < end
        time.sleep(0.01)
    killed.kill()
    killed.communicate(timeout=20)
    waiting = start(component(tmp_path, "1.0.0"), old)
    assert waiting.stdout is not None
    first = waiting.stdout.readline()
    gate.write_text("go on\n")
    waiting.communicate(timeout=100)

    assert first == "Another installation is under way; waiting for it.\n"
    assert waiting.returncode == 0


def test_a_python_that_is_not_carried_is_named_beside_those_that_are(
    tmp_path: Path, work: Path
) -> None:
    sentence = refusal(component(tmp_path, "1.0.0", python="3.99"), work)

    assert f"has Python {tiny_agent.PYTHON}; the component carries wheels for 3.99." in sentence
    assert f"--python {tiny_agent.PYTHON}" in sentence


def test_another_python_of_the_device_is_taken_and_its_missing_package_is_named(
    tmp_path: Path, work: Path
) -> None:
    env = device_python(tmp_path, "echo ensurepip is not available; exit 1")
    sentence = refusal(component(tmp_path, "1.0.0", python="3.99"), work, env)

    assert "install the package python3.99-venv" in sentence
    assert "ensurepip is not available" in sentence


def test_where_it_is_allowed_the_index_serves_a_python_that_is_not_carried(
    tmp_path: Path, work: Path
) -> None:
    made = component(tmp_path, "1.0.0", python="3.99", index=True)
    index = environment(PIP_FIND_LINKS=str(tmp_path / "wheels-1.0.0"))
    log = install(made, work, index)

    assert "Installing from the index." in log
    assert tiny_agent.version(work) == "edge-agent 1.0.0"


def test_on_a_jetson_the_systems_opencv_is_asked_for(tmp_path: Path, work: Path) -> None:
    probe = [tiny_agent.BASE, "-I", "-c", "import cv2"]
    if subprocess.run(probe, check=False, capture_output=True).returncode == 0:
        pytest.skip("this machine's Python has OpenCV")

    assert "JetPack's OpenCV isn't there" in refusal(
        component(tmp_path, "1.0.0", jetson=True), work
    )


def test_the_program_needs_nothing_but_python(tmp_path: Path) -> None:
    program = component(tmp_path, "1.0.0") / "install.py"
    bare = [sys.executable, "-I", "-S", str(program), "--help"]  # no installed packages

    assert subprocess.run(bare, stdout=subprocess.DEVNULL, check=False).returncode == 0


def test_the_same_wheels_give_the_same_bytes(tmp_path: Path) -> None:
    made = []
    for name in ("monday", "friday"):
        (tmp_path / name).mkdir()
        component(tmp_path / name, "1.0.0")
        made.append((tmp_path / name / "1.0.0.zip").read_bytes())

    assert made[0] == made[1]
