"""A fake of a Greengrass core device: what a nucleus does with emitted component folders.

It reads nothing but recipes (JSON) and artifacts, and follows what nucleus lite was seen to do:
install before the old process is told to go, SIGTERM to the whole group, scripts that end at an
unknown brace, three starts of what exits with an error, components that go down for good with one
that they depend on HARD (systemd's BindsTo), files of other versions that are deleted, archives
that stay packed in a deployment by `ggl-cli`. The IPC side is `tests.fakes.fake_nucleus`. A release
is to be tried on real nuclei.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path
from types import TracebackType
from typing import Any, Dict, List, Mapping, Optional, Type

ARCHITECTURE = "aarch64" if platform.machine() == "aarch64" else "amd64"
STOP_WITHIN_S = 5.0
STARTS_AN_HOUR = 3
INSTALL_WITHIN_S = 120.0  # both nuclei's default
PYTHON = Path(getattr(sys, "_base_executable", sys.executable)).resolve().parent


class InstallFailed(Exception):
    """The deployment says FAILED; the text is the component's log."""


class Component:
    """One deployed component: its recipe's manifest for this device, its folders, its process."""

    def __init__(
        self, root: Path, folder: Path, environment: Mapping[str, str], unpacks: bool
    ) -> None:
        (recipe_file,) = (folder / "recipes").glob("*.json")
        content = recipe_file.read_bytes()
        assert len(content) < 8192
        self.recipe: Dict[str, Any] = json.loads(content)
        self.name, self.version = self.recipe["ComponentName"], self.recipe["ComponentVersion"]
        self.configuration = self.recipe["ComponentConfiguration"]["DefaultConfiguration"]
        self.dependencies = {
            name: needed.get("DependencyType", "HARD")
            for name, needed in self.recipe.get("ComponentDependencies", {}).items()
        }
        self.starts = 0  # within the hour
        self.has_unit = True  # systemd starts it again
        self.work = root / "work" / self.name
        self.log = root / f"{self.name}.log"
        self.process: Optional[subprocess.Popen[bytes]] = None
        self._environment = environment
        self._manifest = next(
            manifest
            for manifest in self.recipe["Manifests"]
            if manifest["Platform"]["os"] == "linux"
            and manifest["Platform"]["runtime"] == "*"
            and manifest["Platform"]["architecture"] == ARCHITECTURE
        )
        self._artifacts = folder / "artifacts" / self.name / self.version
        self._unpacked = root / "unarchived" / self.name / self.version
        self.work.mkdir(parents=True, exist_ok=True)
        if unpacks:
            self._unpack()

    def install(self) -> None:
        """Run the phase `install`, where there is one, within its own limit.

        Raises InstallFailed when it hasn't succeeded in three tries.
        """
        phase = self._manifest["Lifecycle"].get("install")
        limit = float((phase or {}).get("Timeout", INSTALL_WITHIN_S))
        if phase and all(self._start(phase).wait(limit) for _ in range(STARTS_AN_HOUR)):
            raise InstallFailed(self.log.read_text())

    def run(self) -> None:
        self.starts += 1
        assert self.starts <= STARTS_AN_HOUR, f"{self.name} is BROKEN: {self.log.read_text()}"
        self.process = self._start(self._manifest["Lifecycle"]["run"])

    def stop(self) -> int:
        """SIGTERM to every process of it, SIGKILL after 5 s; return how it ended."""
        process, self.process = self.process, None
        if process is None:
            return 0
        return _end(process)

    def delete_files(self) -> None:
        shutil.rmtree(self._unpacked, ignore_errors=True)

    def _unpack(self) -> None:
        for artifact in self._manifest["Artifacts"]:
            file = self._artifacts / artifact["URI"].rpartition("/")[2]
            assert artifact["Unarchive"] == "ZIP"
            with zipfile.ZipFile(file) as bundle:
                bundle.extractall(self._unpacked / file.stem)
            for path in (self._unpacked / file.stem).rglob("*"):
                path.chmod(0o755 if path.is_dir() else 0o555)

    def _start(self, phase: Mapping[str, Any]) -> subprocess.Popen[bytes]:
        script = re.sub(r"\{([^{}]*)\}", lambda found: self._value(found.group(1)), phase["Script"])
        with self.log.open("ab") as log:
            return subprocess.Popen(
                ["sh", "-c", script], cwd=self.work, stdout=log, stderr=log,
                env=dict(self._environment), start_new_session=True,
            )  # fmt: skip

    def _value(self, variable: str) -> str:
        """Fill in a variable; an unknown one would end the script there."""
        values = {
            "artifacts:path": f"{self._artifacts}/",
            "artifacts:decompressedPath": f"{self._unpacked}/",
            "work:path": f"{self.work}/",
            "iot:thingName": self._environment["AWS_IOT_THING_NAME"],
        }
        if not variable.startswith("configuration:/"):
            return values[variable]
        value = self.configuration[variable[len("configuration:/") :]]
        text = value if isinstance(value, str) else json.dumps(value)
        return re.sub(r'(["\\$`])', r"\\\1", text)


class Device:
    """Deploys component folders under `root`; as a context manager it stops them all."""

    def __init__(self, root: Path, ipc: Mapping[str, str]) -> None:
        self.root = root
        self.components: Dict[str, Component] = {}
        self._environment = {
            "PATH": f"{PYTHON}:/usr/local/bin:/usr/bin:/bin", "HOME": str(root),
            "AWS_IOT_THING_NAME": "press-7", "PIP_NO_INDEX": "1", **ipc,
        }  # fmt: skip

    def __enter__(self) -> Device:
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        for component in self.components.values():
            if component.process:
                _end(component.process)

    def ggl_cli(self, words: List[str], folder: Path) -> List[Component]:
        """Run `ggl-cli deploy` in `folder`, which takes the folders given as they are."""
        parser = argparse.ArgumentParser(prog="ggl-cli", allow_abbrev=False)
        parser.add_argument("command", choices=["deploy"])
        parser.add_argument("-r", "--recipe-dir", required=True)
        parser.add_argument("-a", "--artifacts-dir", required=True)
        parser.add_argument("-c", "--add-component", action="append", required=True)
        given = parser.parse_args(words[1:])
        component = folder / Path(given.recipe_dir).parent
        assert component / "artifacts" == folder / given.artifacts_dir
        new = [self.deploy(component, unpacks=False) for _ in given.add_component]
        assert [f"{one.name}={one.version}" for one in new] == given.add_component
        return new

    def deploy(
        self, folder: Path, configuration: Optional[Mapping[str, Any]] = None, unpacks: bool = True
    ) -> Component:
        """Install and start a component, or a new version of it in the old one's place."""
        new = Component(self.root, folder, self._environment, unpacks)
        missing = new.dependencies.keys() - self.components.keys()
        assert not missing, f"{new.name} depends on {missing}"
        new.configuration = {**new.configuration, **(configuration or {})}
        old = self.components.get(new.name)
        if old is not None:
            old.has_unit = False  # removed before the new one is installed
        new.install()
        if old is not None:
            assert old.stop() == 0, old.log.read_text()
            if old.version != new.version:
                old.delete_files()
        self.components[new.name] = new
        new.run()
        return new

    def remove(self, name: str) -> None:
        component = self.components.pop(name)
        assert component.stop() == 0, component.log.read_text()
        component.delete_files()

    def crash(self, name: str) -> None:
        """Kill a component; systemd starts it again, and stops what is bound to it for good."""
        component = self.components[name]
        assert component.process is not None
        _signal(component.process, signal.SIGKILL)
        component.process.wait()
        for other in self.components.values():
            if other.dependencies.get(name) == "HARD":
                other.stop()
        component.run()

    def restart(self) -> None:
        """As a reboot: everything ends, then starts in whatever order."""
        for component in self.components.values():
            assert component.stop() == 0, component.log.read_text()
        for component in reversed(list(self.components.values())):
            component.starts = 0
            if component.has_unit:
                component.install()
                component.run()


def _end(process: subprocess.Popen[bytes]) -> int:
    _signal(process, signal.SIGTERM)
    try:
        code = process.wait(STOP_WITHIN_S)
    except subprocess.TimeoutExpired:
        code = -1
    _signal(process, signal.SIGKILL)  # what is left of the group
    process.wait()
    return code


def _signal(process: subprocess.Popen[bytes], number: int) -> None:
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return
