"""A stand-in for the agent's wheels, so small that installing it takes as long as `venv` does."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Dict, List, Optional, Tuple

from edge_agent.packaging.agent import artifact

PYTHON = "{}.{}".format(*sys.version_info)
# The one the tests' environment was made with: it has none of their libraries.
BASE = str(Path(getattr(sys, "_base_executable", sys.executable)).resolve())


def wheel(folder: Path, name: str, version: str, files: Dict[str, str], needs: str = "") -> Path:
    """A wheel as the specification has it; `needs` are lines of its METADATA."""
    path = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    members = {
        **files,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{member},,\n" for member in [*members, f"{info}/RECORD"])
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as bundle:
        for member, text in {**members, f"{info}/RECORD": record}.items():
            bundle.writestr(member, text)
    return path


def wheels(folder: Path, version: str) -> List[Path]:
    """The agent, which tells its version, and its engine."""
    folder.mkdir(parents=True)
    own = {
        "edge_agent/__init__.py": "",
        "edge_agent/__main__.py": f"print('edge-agent {version}')\n",
        "edge_agent/late.py": f"VERSION = '{version}'\n",
        "edge_agent/runtime/__init__.py": "",
        "edge_agent/runtime/app.py": "",
    }
    needs = "Requires-Dist: onnxruntime; extra == 'cpu'\nProvides-Extra: cpu\n"
    engine = {"onnxruntime/__init__.py": ""}
    return [
        wheel(folder, "edge_agent", version, own, needs),
        wheel(folder, "onnxruntime", "1.0", engine),
    ]


def component(
    folder: Path, version: str, python: str = PYTHON, index: bool = False, jetson: bool = False
) -> Path:
    """The unpacked artifact, whose `install` is what the nucleus runs; its zip lies beside it."""
    own, *others = wheels(folder / f"wheels-{version}", version)
    facts = {
        "name": "plant.Agent", "version": version, "agent": own.name, "extras": "[cpu]",
        "index": index, "jetson": jetson,
    }  # fmt: skip
    path = folder / f"{version}.zip"
    artifact.write(path, {python: [own, *others]}, facts, level=1)
    with zipfile.ZipFile(path) as bundle:
        bundle.extractall(folder / f"component-{version}")
    return folder / f"component-{version}"


def environment(**more: str) -> Dict[str, str]:
    """A clean one, in which no package index can be reached."""
    return {
        "PATH": os.environ["PATH"], "PIP_INDEX_URL": "http://127.0.0.1:9/", "PIP_NO_INDEX": "1",
        **more,
    }  # fmt: skip


def start(place: Path, work: Path, env: Optional[Dict[str, str]] = None) -> subprocess.Popen[str]:
    """Start the component's install phase, as the recipe does, from its folder or its zip."""
    work.mkdir(exist_ok=True)
    return subprocess.Popen(
        [BASE, "-m", "install", "--work", f"{work}/"], cwd=work,
        env={**(env or environment()), "PYTHONPATH": str(place)},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def install(folder: Path, work: Path, env: Optional[Dict[str, str]] = None) -> str:
    """Run the install phase to its end, which must be a good one; return its log."""
    code, log = outcome(folder, work, env)
    assert code == 0, log
    return log


def refusal(folder: Path, work: Path, env: Optional[Dict[str, str]] = None) -> str:
    """Run an install phase that must fail, with one sentence; return that."""
    code, log = outcome(folder, work, env)
    assert code == 1, log
    assert "Traceback" not in log
    return log.splitlines()[-1]


def outcome(folder: Path, work: Path, env: Optional[Dict[str, str]]) -> Tuple[int, str]:
    process = start(folder, work, env)
    log, _ = process.communicate(timeout=100)
    return process.returncode, log


def version(work: Path) -> str:
    """What the installed agent says."""
    command = [str(work / "current" / "bin" / "python3"), "-m", "edge_agent", "version"]
    return subprocess.run(
        command, cwd=work, env=environment(), check=True, stdout=subprocess.PIPE, text=True
    ).stdout.strip()
