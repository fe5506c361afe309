"""What a model component runs on the device: it registers its model in the agent's models.d.

It travels in the component's zip, beside the model package, and needs nothing but Python 3.8. It
runs unpacked or from within the zip, and what it lies in is the package that it registers. With
--check, the install phase, it only checks package and settings: a wrong one fails there.

The component keeps a copy of each package that passed, WORK/packages/ID, and registers that: the
nucleus deletes the files of a version that was replaced, also by one that is refused.

While the process runs, the record is written again when it vanishes, so that neither the order of
starts nor a new folder matters. SIGTERM alone doesn't say whether the model is withdrawn, or the
device, the nucleus or the agent restarts: the record then says that its component has stopped. An
agent that runs withdraws the model after a while and removes the record; one that starts later
serves it. Two versions share one file name; the later one's record wins, and the earlier one leaves
it alone. What is wrong in a restart keeps the value that the record has.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import BinaryIO, Dict, Iterator, List, Optional, Set, Tuple

CHECK_EVERY_S = 0.5
AGENT_WITHIN_S = 240.0  # its check of the package
MANIFEST, SIGNATURE = "manifest.json", "manifest.sig"
REFUSED = 3  # exit status of the agent's check
STOP = {signal.SIGTERM, signal.SIGINT}
SWITCH = {"true": True, "false": False}


class Refused(Exception):
    """A sentence: what came, and what was expected."""


class OwnPackage:
    """The model package that this program came with: a folder, or a zip."""

    def __init__(self, place: Path) -> None:
        self.place = place
        try:
            manifest = self._read(MANIFEST)
            listed = json.loads(manifest)["files"]
            self._files: Dict[str, Tuple[int, str]] = {
                str(entry["path"]): (int(entry["size"]), str(entry["sha256"])) for entry in listed
            }
        except (OSError, KeyError, TypeError, ValueError, zipfile.BadZipFile) as error:
            raise Refused(
                f"{place / MANIFEST} can't be read ({error}). Package it again."
            ) from None
        self.id = hashlib.sha256(manifest + (self._find(SIGNATURE) or b"")).hexdigest()[:12]

    def content(self) -> Iterator[Tuple[str, bytes]]:
        """Yield the files that the manifest lists. Raises Refused when one isn't as it says."""
        for name, (size, digest) in self._files.items():
            content = self._find(name) if _is_inside(name) else None
            if content is None or len(content) != size or _sha256(content) != digest:
                raise Refused(
                    f"{self.place}: {name} is {'missing' if content is None else 'damaged'}. "
                    "Package the model again, and deploy it as a new version."
                )
            yield name, content
        for name in (SIGNATURE, MANIFEST):
            content = self._find(name)
            if content is not None:
                yield name, content

    def _find(self, name: str) -> Optional[bytes]:
        try:
            return self._read(name)
        except (OSError, KeyError, zipfile.BadZipFile):
            return None

    def _read(self, name: str) -> bytes:
        if self.place.is_dir():
            return (self.place / name).read_bytes()
        with zipfile.ZipFile(self.place) as bundle:
            return bundle.read(name)


def keep(package: OwnPackage, name: str, folder: Path, agent: Path) -> Path:
    """Copy the package into `folder` unless it is there undamaged; return the copy.

    Raises Refused, also for what the agent refuses.
    """
    kept = folder / package.id
    if not _is_whole(kept, package.id):
        fresh, damaged = (folder / f".{package.id}.{os.getpid()}{end}" for end in ("", ".damaged"))
        try:
            for file, content in package.content():
                _write_file(fresh / file, content)
            _ask_agent(agent, name, fresh)
            os.sync()  # a power cut must not leave half of it
            if os.path.lexists(kept):
                kept.replace(damaged)
            fresh.replace(kept)
        except OSError as error:
            raise Refused(f"{kept} can't be written ({error.strerror}).") from None
        finally:
            for path in (fresh, damaged):
                shutil.rmtree(path, ignore_errors=True)
    return kept


def _is_whole(kept: Path, package_id: str) -> bool:
    """Return whether a copy is there, with every byte as it was."""
    try:
        copy = OwnPackage(kept)
        return copy.id == package_id and all(True for _ in copy.content())
    except Refused:
        return False


def _ask_agent(agent: Path, name: str, package: Path) -> None:
    """Raise Refused if the agent that is installed would refuse the package."""
    program = agent / "current" / "bin" / "python3"
    environment = {name: os.environ[name] for name in os.environ if name != "PYTHONPATH"}  # ours
    command = [str(program), "-m", "edge_agent", "check", str(package), "--name", name]
    try:
        done = subprocess.run(
            [*command, "--greengrass", str(agent)], env=environment, timeout=AGENT_WITHIN_S,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        _print(
            "The agent isn't installed yet, or can't say: it checks the package when it loads it."
        )
        return
    said = done.stdout.decode(errors="replace").strip()
    if done.returncode == REFUSED:
        raise Refused(said)
    _print(said)


class ModelRecord:
    """The record of this process."""

    def __init__(self, path: Path, record: Dict[str, object]) -> None:
        self._path, self._record = path, record
        # Held open, so that no other file gets its inode number: by it we know our own record.
        self._file: Optional[BinaryIO] = None
        self._last_error = ""

    def ensure(self) -> None:
        """Write the record: at first over any other, later only where no running one's is."""
        try:
            if self._file is None or not self._path.exists() or self._is_left():
                self._write(self._record)
                self._last_error = ""
                _print(f"The model is registered in {self._path}.")
        except OSError as error:
            message = f"Can't write {self._path} ({error.strerror}); trying again."
            if message != self._last_error:
                _print(message)
            self._last_error = message

    def leave(self) -> None:
        """Note in the record that its component has stopped; another process's stays as it is."""
        try:
            if self._file and os.path.samestat(os.fstat(self._file.fileno()), self._path.stat()):
                self._write({**self._record, "component_stopped": True})
        except FileNotFoundError:
            pass
        except OSError as error:
            _print(f"Can't write {self._path} ({error.strerror}); the model stays registered.")

    def _is_left(self) -> bool:
        """Return whether the process that wrote it last has stopped."""
        try:
            return bool(json.loads(self._path.read_bytes()).get("component_stopped"))
        except (OSError, ValueError, AttributeError):
            return False  # somebody is editing it

    def _write(self, record: Dict[str, object]) -> None:
        # Only the folder itself: its parent is the agent's, made by the nucleus or by hand.
        self._path.parent.mkdir(exist_ok=True)
        fresh = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        try:
            file = fresh.open("wb", buffering=0)
            file.write(json.dumps(record).encode())
            os.fchmod(file.fileno(), 0o644)  # the agent may be another user
            fresh.replace(self._path)
        finally:
            if fresh.exists():
                fresh.unlink()
        if self._file:
            self._file.close()
        self._file = file


def main(arguments: Optional[List[str]] = None) -> int:
    """Register the model until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(description="Registers a model with the edge agent.")
    parser.add_argument("--name", required=True, help="model component")
    parser.add_argument(
        "--agent", required=True, type=Path, help="the agent's work folder, beside this component's"
    )
    parser.add_argument("--records", required=True, help="folder of records, seen from there")
    parser.add_argument("--autostart", required=True)
    parser.add_argument("--threshold", default="", help="'': the package's own")
    parser.add_argument("--check", action="store_true", help="only check, and keep the package")
    given = parser.parse_args(arguments)
    path = given.agent / given.records / f"{given.name}.json"
    good = _last_good(path)
    record, wrong = _record(given, good)
    for sentence in wrong:
        _print(f"ERROR: {sentence}")
    if given.check:
        _forget_others(_kept(given), {str(record.get("package")), str(good.get("package"))})
        return 1 if wrong else 0
    if not record:
        return 2
    if wrong:
        _print("The model stays registered as it was. Correct this in a deployment.")
    _hold(ModelRecord(path, record))
    return 0


def _hold(own: ModelRecord) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP)
    while True:
        own.ensure()
        if signal.sigtimedwait(STOP, CHECK_EVERY_S):
            break
    own.leave()


def _record(
    given: argparse.Namespace, good: Dict[str, object]
) -> Tuple[Dict[str, object], List[str]]:
    """Return the record, with the values of the last good one for wrong ones, and what is wrong.

    The record is empty when a value is wrong and there is no good one.
    """
    record: Dict[str, object] = {"model_component": given.name}
    wrong = []

    def package() -> str:
        own = OwnPackage(Path(__file__).resolve().parent)
        return str(keep(own, given.name, _kept(given), given.agent))

    for key, read in (
        ("package", package),
        ("autostart", lambda: _switch(given.autostart)),
        ("decision", lambda: _decision(given.threshold)),
    ):
        try:
            record[key] = read()
        except Refused as error:
            wrong.append(str(error))
            record[key] = good.get(key, {})
    return (record if good or not wrong else {}), wrong


def _kept(given: argparse.Namespace) -> Path:
    work: Path = given.agent.resolve().parent / given.name
    return work / "packages"


def _forget_others(folder: Path, in_use: Set[str]) -> None:
    for path in folder.iterdir() if folder.is_dir() else ():
        if str(path) not in in_use:
            shutil.rmtree(path, ignore_errors=True)


def _last_good(path: Path) -> Dict[str, object]:
    """Return the record that is there, without the note that its component has stopped."""
    try:
        values = dict(json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError):
        return {}
    return values if isinstance(values.get("package"), str) else {}


def _switch(text: str) -> bool:
    if text.lower() not in SWITCH:
        raise Refused(f"--autostart: {text!r} isn't true or false.")
    return SWITCH[text.lower()]


def _decision(text: str) -> Dict[str, float]:
    if not text:
        return {}
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0.0 <= value <= 1.0:
        raise Refused(
            f"--threshold: {text!r} isn't a number from 0 to 1 (empty: the package's own)."
        )
    return {"threshold": value}


def _is_inside(name: str) -> bool:
    path = Path(name)
    return not path.is_absolute() and ".." not in path.parts


def _write_file(path: Path, content: bytes) -> None:
    """Write a file that the agent can read, though it may be another user."""
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    path.write_bytes(content)
    path.chmod(0o644)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _print(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
