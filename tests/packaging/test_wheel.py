"""What the wheel for a device has in it, and what it leaves out."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Set

import pytest

from tests import ROOT

BUILD = ["-c", "import setuptools; setuptools.setup()", "-q", "build_py", "--build-lib"]


@pytest.fixture(name="built", scope="module")
def _built(tmp_path_factory: pytest.TempPathFactory) -> Set[str]:
    """The files that setuptools puts into a wheel, from a copy of the project."""
    pytest.importorskip("setuptools", "61", reason="older releases read no pyproject.toml")
    project = tmp_path_factory.mktemp("project")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copyfile(ROOT / name, project / name)
    for name in ("edge_agent", "scripts", "tests/peers"):
        shutil.copytree(ROOT / name, project / name, ignore=shutil.ignore_patterns("__pycache__"))
    out = project / "built"
    subprocess.run([sys.executable, *BUILD, str(out)], cwd=project, check=True, timeout=100)
    return {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}


def test_every_module_and_the_mark_of_types_are_in_the_wheel(built: Set[str]) -> None:
    source = Path(ROOT / "edge_agent")
    modules = {f"edge_agent/{path.relative_to(source).as_posix()}" for path in source.rglob("*.py")}
    assert modules <= built
    assert "edge_agent/py.typed" in built


def test_nothing_but_the_package_is_in_the_wheel_and_no_other_server(built: Set[str]) -> None:
    assert {name.split("/")[0] for name in built} == {"edge_agent"}
    assert not [name for name in built if "peers" in name or "mlserver" in name]
