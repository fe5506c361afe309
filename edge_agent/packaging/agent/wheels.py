"""Collects the wheels that a device needs, for its architecture and Python, with pip.

pip asks the index it is set up with on this machine. It evaluates the conditions of dependencies
for the Python it runs on, not for the device's, so what it brought is walked through once more:
what is missing is fetched, what isn't needed is left out.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from email.parser import HeaderParser
from pathlib import Path
from typing import TYPE_CHECKING, Dict, Iterable, Iterator, List, Tuple

from edge_agent.errors import InvalidConfiguration
from edge_agent.packaging.recipe import Architecture

if TYPE_CHECKING:
    from packaging.requirements import Requirement
    from packaging.specifiers import SpecifierSet

EXTRAS = ("cpu", "signing")
MACHINES: Dict[Architecture, str] = {"amd64": "x86_64", "aarch64": "aarch64"}
GLIBC = range(5, 29)  # 2.28 and older: Debian 10, Ubuntu 20.04 (JetPack 5), RHEL 8
LEGACY = ("manylinux1", "manylinux2010", "manylinux2014")
# Distributions a device doesn't use: these are for tools that come with onnxruntime.
UNUSED = frozenset({"sympy", "coloredlogs"})
OF_JETPACK = frozenset({"opencv-python-headless"})
EARLIEST = "315532800"  # 1980-01-01 in seconds since 1970; the oldest date of a zip


@dataclass(frozen=True)
class Device:
    """For what wheels are wanted; `python` is such as 3.8."""

    architecture: Architecture
    python: str
    is_jetson: bool = False

    @property
    def left_out(self) -> Iterable[str]:
        """Distributions that aren't carried."""
        return UNUSED | OF_JETPACK if self.is_jetson else UNUSED

    @property
    def pip_options(self) -> List[str]:
        """What makes pip choose for this device."""
        machine, tag = MACHINES[self.architecture], self.python.replace(".", "")
        platforms = [*(f"manylinux_2_{minor}" for minor in GLIBC), *LEGACY]
        options = ["--only-binary=:all:", "--implementation=cp", f"--python-version={self.python}"]
        options += [f"--platform={name}_{machine}" for name in platforms]
        return options + [f"--abi={abi}" for abi in (f"cp{tag}", "abi3", "none")]

    @property
    def markers(self) -> Dict[str, str]:
        """What conditions of dependencies see."""
        return {
            "python_version": self.python, "python_full_version": f"{self.python}.0",
            "platform_machine": MACHINES[self.architecture], "platform_system": "Linux",
            "sys_platform": "linux", "os_name": "posix", "platform_release": "",
            "platform_version": "", "implementation_name": "cpython",
            "implementation_version": f"{self.python}.0",
            "platform_python_implementation": "CPython",
        }  # fmt: skip


def build(project: Path, folder: Path) -> Path:
    """Build the agent's own wheel in `folder`, from a copy, as setuptools keeps what it built."""
    copy = folder / "source"
    copy.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copyfile(project / name, copy / name)
    clean = shutil.ignore_patterns("__pycache__", "*.pyc")
    shutil.copytree(project / "edge_agent", copy / "edge_agent", ignore=clean)
    _pip("wheel", "--no-deps", "--wheel-dir", str(folder), str(copy))
    (wheel,) = folder.glob("edge_agent-*.whl")
    return wheel


def collect(own: Path, device: Device, constraints: Path, folder: Path) -> List[Path]:
    """Return `own` and all it needs on `device`, by name, of what is or comes into `folder`.

    `constraints` are pip's, for Python 3.8. Raises InvalidConfiguration.
    """
    limits = ["--constraint", str(constraints)] if device.python == "3.8" else []
    while True:
        wheels = [own, *folder.glob("*.whl")]
        needed, missing = _walk(wheels, device)
        if not missing:
            return sorted(needed, key=lambda path: path.name)
        _pip("download", "--dest", str(folder), *device.pip_options, *limits, *missing)


def pip(device: Device, folder: Path) -> Path:
    """Return pip itself for `device`, which may have none. Raises InvalidConfiguration."""
    _pip("download", "--no-deps", "--dest", str(folder), *device.pip_options, "pip")
    (wheel,) = folder.glob("pip-*.whl")
    return wheel


def _walk(wheels: List[Path], device: Device) -> Tuple[List[Path], List[str]]:
    """Follow the dependencies of the first; return wheels and the requirements without a wheel."""
    by_name = {normal(wheel.name.split("-")[0]): wheel for wheel in wheels}
    needed: Dict[str, Path] = {}
    missing: List[str] = []
    queue = [(normal(wheels[0].name.split("-")[0]), frozenset(EXTRAS))]
    seen = set(queue)
    while queue:
        name, extras = queue.pop()
        needed[name] = by_name[name]
        for wanted in _requirements(by_name[name], device, extras):
            step = normal(wanted.name), frozenset(wanted.extras)
            if step[0] in by_name:
                _check(wanted.specifier, by_name[step[0]])
            if step in seen:
                continue
            seen.add(step)
            if step[0] in by_name:
                queue.append(step)
            else:
                wanted.marker = None
                missing.append(str(wanted))
    return list(needed.values()), missing


def _requirements(wheel: Path, device: Device, extras: Iterable[str]) -> Iterator[Requirement]:
    """Yield what the wheel, with `extras`, needs on the device and the device doesn't have."""
    from packaging.requirements import Requirement

    with zipfile.ZipFile(wheel) as bundle:
        names = [name for name in bundle.namelist() if name.endswith(".dist-info/METADATA")]
        headers = HeaderParser().parsestr(bundle.read(names[0]).decode())
    for text in headers.get_all("Requires-Dist") or []:
        wanted = Requirement(text)
        applies = wanted.marker is None or any(
            wanted.marker.evaluate({**device.markers, "extra": extra}) for extra in ("", *extras)
        )
        if applies and normal(wanted.name) not in device.left_out:
            yield wanted


def _check(versions: SpecifierSet, wheel: Path) -> None:
    if not versions.contains(wheel.name.split("-")[1], prereleases=True):
        raise InvalidConfiguration(
            f"pip chose {wheel.name}, but versions {versions} are needed on the device. Build the "
            "component with the device's own Python."
        )


def normal(name: str) -> str:
    """Return a distribution's name as all spellings of it are compared."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", *arguments, "--quiet", "--disable-pip-version-check"]
    environment = {**os.environ, "SOURCE_DATE_EPOCH": EARLIEST}
    done = subprocess.run(
        command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, check=False,
    )  # fmt: skip
    if done.returncode:
        lines = done.stdout.decode(errors="replace").splitlines()
        errors = [line for line in lines if line.startswith("ERROR:")] or lines[-1:]
        raise InvalidConfiguration(f"pip {arguments[0]} failed: {' '.join(errors)}")
