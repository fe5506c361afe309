"""The agent component's zip for one architecture: wheels, what installs them, bill of materials.

install.py           see there
wheels.json          which wheels, for which Python, with their sha-256
wheels/NAME.xz       a wheel whose own compression was undone before: so xz saves a third of it
wheels/NAME          at compression 0, the wheel as the index has it
bom.cdx.json         bill of materials; its digests are those of the wheels as the index has them

Dates and modes are fixed and names are sorted: the same wheels give the same bytes, as long as it's
the same liblzma that compresses.

pip collects the wheels, from the index it is set up with on this machine. It evaluates the
conditions of dependencies for the Python it runs on, not for the device's, so its result is checked
once more: what is missing is fetched, what isn't needed is left out.
"""

from __future__ import annotations

import hashlib
import io
import json
import lzma
import os
import shutil
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Dict, Iterable, Iterator, List, Mapping, Tuple

from edge_agent.errors import InvalidConfiguration
from edge_agent.packaging import bom
from edge_agent.packaging.agent import install
from edge_agent.packaging.archive import DATE, write_zip
from edge_agent.packaging.bom import normalised
from edge_agent.packaging.recipe import Architecture
from edge_agent.runtime.system import resources

if TYPE_CHECKING:
    from packaging.requirements import Requirement
    from packaging.specifiers import SpecifierSet

PROGRAM = "install.py"
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
    """What the wheels are for; `python` is such as 3.8."""

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


def build_wheel(project: Path, folder: Path) -> Path:
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


def collect_wheels(own: Path, device: Device, constraints: Path, folder: Path) -> List[Path]:
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


def pip_wheel(device: Device, folder: Path) -> Path:
    """Return pip itself for `device`, which may have none. Raises InvalidConfiguration."""
    _pip("download", "--no-deps", "--dest", str(folder), *device.pip_options, "pip")
    (wheel,) = folder.glob("pip-*.whl")
    return wheel


def _walk(wheels: List[Path], device: Device) -> Tuple[List[Path], List[str]]:
    """Walk the dependencies of the first; return wheels and the requirements without a wheel."""
    by_name = {normalised(wheel.name.split("-")[0]): wheel for wheel in wheels}
    needed: Dict[str, Path] = {}
    missing: List[str] = []
    queue = [(normalised(wheels[0].name.split("-")[0]), frozenset(EXTRAS))]
    seen = set(queue)
    while queue:
        name, extras = queue.pop()
        needed[name] = by_name[name]
        for requirement in _requirements(by_name[name], device, extras):
            step = normalised(requirement.name), frozenset(requirement.extras)
            if step[0] in by_name:
                _check(requirement.specifier, by_name[step[0]])
            if step in seen:
                continue
            seen.add(step)
            if step[0] in by_name:
                queue.append(step)
            else:
                requirement.marker = None
                missing.append(str(requirement))
    return list(needed.values()), missing


def _requirements(wheel: Path, device: Device, extras: Iterable[str]) -> Iterator[Requirement]:
    """Yield what the wheel, with `extras`, needs on the device and the device doesn't have."""
    from packaging.requirements import Requirement

    for text in bom.wheel_metadata(wheel).get_all("Requires-Dist", ()):
        needed = Requirement(text)
        applies = needed.marker is None or any(
            needed.marker.evaluate({**device.markers, "extra": extra}) for extra in ("", *extras)
        )
        if applies and normalised(needed.name) not in device.left_out:
            yield needed


def _check(versions: SpecifierSet, wheel: Path) -> None:
    if not versions.contains(wheel.name.split("-")[1], prereleases=True):
        raise InvalidConfiguration(
            f"pip chose {wheel.name}, but versions {versions} are needed on the device. Build the "
            "component with the device's own Python."
        )


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


def write(
    path: Path, pythons: Mapping[str, List[Path]], facts: Mapping[str, object], level: int
) -> None:
    """Write the zip.

    `pythons` are the wheels for each Python, `facts` the rest of wheels.json (see
    `install.Content`), `level` xz's, or 0 for none. Raises InvalidConfiguration, OSError.
    """
    wheels = _by_name(pythons)
    with ThreadPoolExecutor(resources.cores()) as workers:
        packed = dict(zip(wheels, workers.map(lambda wheel: pack(wheel, level), wheels.values())))
    content = {
        **facts,
        "pythons": {python: [wheel.name for wheel in pythons[python]] for python in pythons},
        "sha256": {name: digest for name, (digest, _, _) in packed.items()},
    }
    members = {
        PROGRAM: Path(install.__file__).read_bytes(),
        install.LIST: (json.dumps(content, indent=1, sort_keys=True) + "\n").encode(),
        bom.FILE_NAME: bom.of_agent(
            str(facts["name"]), str(facts["version"]), list(wheels.values())
        ),
        **{member: compressed for _, member, compressed in packed.values()},
    }
    write_zip(path, sorted(members.items()))


def pack(wheel: Path, level: int) -> Tuple[str, str, bytes]:
    """Return the sha-256 of what a device unpacks, and the zip's member: its name and content."""
    content, suffix = wheel.read_bytes(), ""
    if level:
        content, suffix = _plain(wheel), ".xz"
    packed = lzma.compress(content, preset=level) if level else content
    return hashlib.sha256(content).hexdigest(), f"wheels/{wheel.name}{suffix}", packed


def _plain(wheel: Path) -> bytes:
    """Return the wheel without its own compression."""
    plain = io.BytesIO()
    with zipfile.ZipFile(wheel) as source, zipfile.ZipFile(plain, "w") as copy:
        for member in source.infolist():
            entry = zipfile.ZipInfo(member.filename, DATE)
            # What is a program stays one.
            entry.create_system, entry.external_attr = member.create_system, member.external_attr
            copy.writestr(entry, source.read(member))
    return plain.getvalue()


def _by_name(pythons: Mapping[str, List[Path]]) -> Dict[str, Path]:
    found: Dict[str, Path] = {}
    for wheel in sorted(path for wheels in pythons.values() for path in wheels):
        other = found.setdefault(wheel.name, wheel)
        if other.read_bytes() != wheel.read_bytes():
            raise InvalidConfiguration(f"The index has two different files {wheel.name}.")
    return {name: found[name] for name in sorted(found)}
