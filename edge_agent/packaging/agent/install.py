"""What the agent's component runs to install itself: a virtual environment of the wheels beside it.

It travels in the component's zip and needs nothing but Python 3.8. It runs unpacked or from within
the zip, as nucleus lite unpacks no archive of a local deployment. What it makes:

WORK/agents/ID/venv         one virtual environment for each version
WORK/agents/ID/bin/python3  starts its Python by its real path, so that a running agent goes on with
                            its own modules when `current` is switched
WORK/agents/ID/complete     there once all of it works
WORK/current                link to the version to run, switched in one step

An installation that ends half-way leaves the version before in use; the next run starts again.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import io
import json
import lzma
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import zipfile
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Dict, Iterator, List, Optional, Tuple, Union

LIST = "wheels.json"
CHUNK = 1 << 20  # bytes
# With the libraries of all of them. Ours comes first: it turns off the telemetry of onnxruntime.
STARTS = "-c", "import edge_agent.runtime.app, onnxruntime"
REMEDY = "Remove the component's artifacts from this device and deploy it again."
NUCLEUS = "AWS_GG_NUCLEUS_DOMAIN_SOCKET_FILEPATH_FOR_COMPONENT"
LOOK = "import sys, importlib; print(importlib.import_module(sys.argv[1]).__version__)"


class CannotInstall(Exception):
    """The sentence that ends the installation."""


class Content:
    """What the component carries, by its wheels.json."""

    def __init__(self, place: Path) -> None:
        """`place` is the component's zip, or the folder it was unpacked into."""
        self._place = place
        try:
            content = self._read(LIST)
            values = json.loads(content)
        except (ValueError, KeyError, FileNotFoundError, zipfile.BadZipFile) as error:
            raise CannotInstall(f"{LIST} is damaged ({error}). {REMEDY}") from None
        self.version: str = values["version"]
        self.agent: str = values["agent"]  # the agent's own wheel
        self.extras: str = values["extras"]  # of the agent, such as [cpu]
        self.pythons: Dict[str, List[str]] = values["pythons"]  # "3.8" → its wheels
        self.digests: Dict[str, str] = values["sha256"]  # of each wheel, once its .xz is undone
        self.may_use_index: bool = values["index"]
        self.is_for_jetson: bool = values["jetson"]
        self.digest = hashlib.sha256(content).hexdigest()[:12]

    def unpack(self, name: str, folder: Path) -> Path:
        """Write a wheel into `folder`. Raises CannotInstall unless it is what was packed."""
        digest, path = hashlib.sha256(), folder / name
        try:
            with self._open(name) as source, path.open("wb") as out:
                for chunk in iter(lambda: source.read(CHUNK), b""):
                    digest.update(chunk)
                    out.write(chunk)
        except (lzma.LZMAError, EOFError, KeyError, FileNotFoundError, zipfile.BadZipFile) as error:
            raise CannotInstall(f"{name} is damaged ({error}). {REMEDY}") from None
        if digest.hexdigest() != self.digests[name]:
            raise CannotInstall(f"{name} isn't what the component was built with. {REMEDY}")
        return path

    def _open(self, name: str) -> Union[BinaryIO, lzma.LZMAFile]:
        try:
            return lzma.open(io.BytesIO(self._read(f"wheels/{name}.xz")))
        except (KeyError, FileNotFoundError):  # it isn't compressed
            return io.BytesIO(self._read(f"wheels/{name}"))

    def _read(self, name: str) -> bytes:
        if self._place.is_dir():
            return (self._place / name).read_bytes()
        with zipfile.ZipFile(self._place) as bundle:
            return bundle.read(name)

    def choose_python(self) -> Tuple[str, str]:
        """Return a Python of this device and its version. Raises CannotInstall."""
        own = "{}.{}".format(*sys.version_info)
        if own in self.pythons:
            return sys.executable, own
        for version in self.pythons:
            found = shutil.which(f"python{version}")
            if found:
                return found, version
        if self.may_use_index:
            return sys.executable, own
        raise CannotInstall(
            f"This device has Python {own}; the component carries wheels for "
            f"{', '.join(self.pythons)}. Install one of these, or build the component with "
            f"--python {own}."
        )


class Programs:
    """Runs programs that hold the lock of the installation, so that none of them outlives it."""

    def __init__(self, lock: int, with_index: bool) -> None:
        self._lock = lock
        # Without the index, pip obeys nothing but the options given here.
        self._environment = {
            name: value
            for name, value in os.environ.items()
            if with_index or not name.startswith("PIP_")
        }
        if not with_index:
            self._environment["PIP_CONFIG_FILE"] = os.devnull

    def run(self, *command: str) -> Tuple[bool, str]:
        """Return whether it succeeded, and the end of what it said."""
        try:
            done = subprocess.run(
                command, env=self._environment, pass_fds=[self._lock], check=False,
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            )  # fmt: skip
        except OSError as error:
            return False, f"{command[0]}: {error.strerror}"
        lines = done.stdout.decode(errors="replace").strip().splitlines()
        return done.returncode == 0, " ".join(lines[-2:]) or f"exit code {done.returncode}"


class Installation:
    """One version in the work folder."""

    def __init__(self, work: Path, content: Content, programs: Programs) -> None:
        self._work, self._content, self._programs = work, content, programs
        self._base, self._python = content.choose_python()
        self.folder = work / "agents" / f"{content.version}-{content.digest}-py{self._python}"
        self._venv = self.folder / "venv"

    def is_current(self) -> bool:
        """Whether `current` leads here."""
        return (self._work / "current").resolve() == self.folder.resolve()

    def works(self) -> bool:
        """Whether it was completed and still starts."""
        return (self.folder / "complete").exists() and self._start(*STARTS)[0]

    def make(self) -> None:
        """Make it in its place. Raises CannotInstall, OSError."""
        _remove(self.folder)
        self.folder.mkdir(parents=True)
        with tempfile.TemporaryDirectory(dir=self.folder) as wheels:
            self._unpack(Path(wheels))
            if self._content.is_for_jetson:
                self._look_for_jetpack()
            carried = sorted(Path(wheels).glob("pip-*.whl"))
            self._make_environment("--without-pip" if carried else "")
            # A wheel of pip runs as it is; Debian's Python may have none to give.
            self._install(Path(wheels), [f"{carried[0]}/pip"] if carried else ["-m", "pip"])
        launcher = self.folder / "bin" / "python3"
        launcher.parent.mkdir()
        launcher.write_text(f'#!/bin/sh\nexec {shlex.quote(str(self._interpreter))} "$@"\n')
        launcher.chmod(0o755)
        for command in (STARTS, ("-m", "edge_agent", "version")):
            succeeded, said = self._start(*command)
            if not succeeded:
                raise CannotInstall(f"The agent doesn't start: {said}")
        _print(f"{said} starts.")
        os.sync()  # a power cut must not leave `complete` beside half a file
        (self.folder / "complete").touch()

    def check_settings(self) -> None:
        """Raise CannotInstall for settings that this version can't use; nothing is stopped yet."""
        if NUCLEUS not in os.environ:
            return  # run by hand: nobody can be asked for the settings
        check = "-m", "edge_agent", "serve", "--greengrass", str(self._work), "--check"
        succeeded, said = self._start(*check)
        if not succeeded:
            raise CannotInstall(
                f"the settings of this deployment can't be used. {said} The agent keeps those it "
                "has. Correct the deployment."
            )

    def switch(self) -> None:
        """Make it the current one; keep the one before, which may still run, and remove others."""
        current, fresh = self._work / "current", self._work / "current.new"
        before = current.resolve()
        if fresh.is_symlink():
            fresh.unlink()
        fresh.symlink_to(self.folder.relative_to(self._work))
        fresh.replace(current)
        _print(f"{current} leads to {self.folder.name} now.")
        for other in self.folder.parent.iterdir():
            if other.resolve() not in (self.folder.resolve(), before):
                _print(f"Removing {other.name}.")
                _remove(other)

    @property
    def _interpreter(self) -> Path:
        return self._venv / "bin" / "python3"

    def _start(self, *arguments: str) -> Tuple[bool, str]:
        return self._programs.run(str(self._interpreter), "-I", *arguments)

    def _unpack(self, folder: Path) -> None:
        names = self._content.pythons.get(self._python, [self._content.agent])
        _print(f"Checking {len(names)} wheels.")
        for name in names:
            self._content.unpack(name, folder)

    def _look_for_jetpack(self) -> None:
        found, said = self._programs.run(self._base, "-I", "-c", LOOK, "cv2")
        if not found:
            raise CannotInstall(
                f"JetPack's OpenCV isn't there for {self._base}; install the package "
                f"libopencv-python. It said: {said}"
            )
        _print(f"OpenCV {said} of this device is used.")
        found, said = self._programs.run(self._base, "-I", "-c", LOOK, "tensorrt")
        there = f"TensorRT {said} of this device is used."
        _print(there if found else f"This device has no TensorRT for {self._base}.")

    def _make_environment(self, way: str) -> None:
        _print(f"Making a virtual environment with {self._base} in {self.folder}.")
        ways = [way] if way else []
        ways += ["--system-site-packages"] if self._content.is_for_jetson else []
        succeeded, said = self._programs.run(self._base, "-I", "-m", "venv", *ways, str(self._venv))
        if not succeeded:
            raise CannotInstall(
                f"{self._base} can't make a virtual environment. On Debian and Ubuntu install the "
                f"package python{self._python}-venv. It said: {said}"
            )

    def _install(self, folder: Path, pip: List[str]) -> None:
        wheels = sorted(map(str, folder.iterdir()))
        ways = ["--no-index", "--no-deps"]
        if self._python not in self._content.pythons:
            wheels, ways = [wheels[0] + self._content.extras], []
        _print("Installing from the index." if not ways else "Installing the wheels.")
        succeeded, said = self._start(
            *pip, "install", "--quiet", "--disable-pip-version-check", "--no-input",
            "--no-cache-dir", "--no-warn-script-location", "--ignore-installed",
            "--no-compile",  # the first start does that, of what is used
            *ways, *wheels,
        )  # fmt: skip
        if not succeeded:
            raise CannotInstall(f"pip can't install the wheels: {said}")


def main(arguments: Optional[List[str]] = None) -> int:
    """Install unless that is done; 1 when it can't be, with a sentence that says why."""
    parser = argparse.ArgumentParser(description="Installs the edge agent into a work folder.")
    parser.add_argument("--work", required=True, type=Path, help="folder to install into")
    work = parser.parse_args(arguments).work.absolute()
    try:
        content = Content(Path(__file__).resolve().parent)
        with _locked(work) as lock:
            _install(Installation(work, content, Programs(lock, content.may_use_index)))
    except CannotInstall as error:
        _print(f"Can't install: {error}")
        return 1
    except OSError as error:
        _print(f"Can't install: {error.filename or work}: {error.strerror}.")
        return 1
    return 0


def _install(installation: Installation) -> None:
    if not installation.works():
        installation.make()
    elif installation.is_current():
        installation.check_settings()
        _print(f"{installation.folder.name} is installed already; nothing to do.")
        return
    installation.check_settings()
    installation.switch()


@contextmanager
def _locked(work: Path) -> Iterator[int]:
    """Hold the folder's lock; the kernel lets it go when this process and its programs end."""
    with (work / "install.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _print("Another installation is under way; waiting for it.")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock.fileno()


def _remove(folder: Path) -> None:
    """Remove a version; what is left when this ends half-way doesn't count as complete."""
    if (folder / "complete").exists():
        (folder / "complete").unlink()
    if folder.exists():
        shutil.rmtree(folder)


def _print(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
