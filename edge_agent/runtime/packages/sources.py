"""Where deployments come from: a folder of model packages, and a folder of registration records.

A source says which of its paths deploy a model, why others don't, and what stands at a path now.
"""

from __future__ import annotations

import json
import os
import re
import stat
from abc import ABC, abstractmethod
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from typing import ClassVar, Dict, Iterator, List, Optional, Set, Tuple

from edge_agent.manifest import FILE_NAME, NAME_PATTERN
from edge_agent.runtime.packages import records
from edge_agent.runtime.packages.awaited_packages import AwaitedPackages, BeingCopied
from edge_agent.runtime.packages.highest_versions import ServedVersions
from edge_agent.runtime.packages.registration import Registration
from edge_agent.runtime.packages.signature import TrustedKeys

BACKUP = re.compile(r"(~|\.(bak|backup|old|orig|tmp|filepart|disabled)([-._]?\d[\d-]*)?)$", re.I)
ARCHIVES = (".tar", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".7z", ".rar")
GRAPHS = (".onnx", ".engine", ".plan", ".trt", ".pt", ".pth", ".ckpt", ".tflite")
NO_MODELS = ("lost+found", "System Volume Information", "$RECYCLE.BIN", "@eaDir")
MOST_INNER = 64  # entries of a folder that are looked at for a package one folder too deep
EXPECTED = (
    f"Expected is for each model a folder with {FILE_NAME} in it, or a .zip of such a folder's "
    "content, as edge-agent train writes them"
)


@dataclass(frozen=True)
class Listing:
    """The paths of a folder that deploy a model, and why others don't."""

    deployed: Set[Path]
    others: Dict[Path, str]


class Withdrawn(Exception):
    """The component that wrote this record has stopped."""


@dataclass(frozen=True)
class Trust:
    """Whose packages serve, and in which versions; None: all."""

    keys: Optional[TrustedKeys]
    versions: Optional[ServedVersions]


class Source(ABC):
    """A folder whose entries deploy models; `expected` says which do."""

    expected: ClassVar[str]

    def __init__(self, folder: Path, packages: AwaitedPackages, trust: Trust) -> None:
        self.folder = folder
        self._packages, self._trust = packages, trust

    def identity(self) -> Tuple[int, int]:
        """Return what is another one when another folder is in its place. Raises OSError."""
        facts = self.folder.stat()
        return facts.st_dev, facts.st_ino

    @abstractmethod
    def listing(self) -> Listing:
        """Return what is in the folder. Raises OSError."""

    @abstractmethod
    def read(self, path: Path) -> Registration:
        """Return what `path` deploys now.

        Raises OSError and ValueError when it can't be used, BeingCopied, Withdrawn.
        """

    @abstractmethod
    def why_empty(self) -> str:
        """Return why nothing is deployed, and what is expected."""

    @abstractmethod
    def forget(self, path: Path) -> None:
        """Note that `path` deploys nothing any more. Raises OSError."""


class PackageFolder(Source):
    """`models.folder`: each folder with a manifest, and each zip, is a model of its name."""

    expected = EXPECTED

    def __init__(
        self, folder: Path, packages: AwaitedPackages, trust: Trust, autostart: bool
    ) -> None:
        super().__init__(folder, packages, trust)
        self._autostart = autostart

    def listing(self) -> Listing:
        """Return what is in the folder. Raises OSError."""
        found = Listing(set(), {})
        for path in sorted(_of_interest(self.folder)):
            why = _why_no_model(path)
            if why is None:
                found.deployed.add(path)
            elif why and not self._is_package:
                found.others[path] = why
        return found

    @property
    def _is_package(self) -> bool:
        return (self.folder / FILE_NAME).is_file()

    def read(self, path: Path) -> Registration:
        """Return the package at `path` as a model. Raises OSError, BeingCopied."""
        facts = self._packages.look(path)
        keys, versions = self._trust.keys, self._trust.versions
        return Registration(
            _name(path), path, facts.stamp, self._autostart, facts.arn, digest=facts.digest,
            trusted=keys, versions=versions,
        )  # fmt: skip

    def why_empty(self) -> str:
        """Return why nothing is deployed, and what is expected."""
        if self._is_package:
            return f"is a model package itself. Give the folder that it lies in: {_above(self)}"
        return f"holds no model package. {self.expected}"

    def forget(self, path: Path) -> None:
        """Note that no model is at `path` any more."""
        self._packages.forget(path)


class RecordFolder(Source):
    """`models.records`: each record names a package that lies anywhere."""

    expected = "Expected is for each model a file NAME.json; see docs/settings.md"

    def __init__(self, folder: Path, packages: AwaitedPackages, trust: Trust) -> None:
        super().__init__(folder, packages, trust)
        self._at_first: Optional[Set[Tuple[Path, int, int]]] = None  # when the folder was there

    def listing(self) -> Listing:
        """Return what is in the folder. Raises OSError."""
        paths = sorted(self.folder.iterdir())
        deployed = set(filter(records.is_record, paths))
        if self._at_first is None:
            self._at_first = set(map(_version, deployed))
        return Listing(
            deployed,
            {
                path: "a record's name must end with .json"
                for path in paths
                if path.suffix.lower() in (".txt", ".yaml", ".yml") or path.name.endswith(".json.")
            },
        )

    def read(self, path: Path) -> Registration:
        """Return what the record at `path` deploys. Raises as `Source.read`."""
        record = records.read(path)
        at_first, version = self._at_first or set(), _version(path)
        if record.component_stopped and version not in at_first:
            if not record.withdrawn:
                records.note_withdrawn(path, record)
            raise Withdrawn  # its component stopped while the agent ran: an order
        package = Path(record.package)
        try:
            facts = self._packages.look(package)
        except FileNotFoundError:
            if record.component_stopped:
                raise Withdrawn from None  # the nucleus has removed it
            raise ValueError(f"its package {package} doesn't exist") from None
        except OSError as error:
            raise ValueError(f"its package {package} can't be read ({error.strerror})") from None
        except BeingCopied as copied:
            raise BeingCopied(f"its package {package} is being copied: {copied}") from None
        if record.withdrawn:  # an agent that has ended since let it go: so does this one, in time
            at_first.discard(version)
        return Registration(
            record.model_component,
            package,
            facts.stamp,
            record.autostart,
            record.model_arn or facts.arn,
            json.dumps(record.decision, sort_keys=True),
            facts.digest,
            trusted=self._trust.keys,
            versions=self._trust.versions,
            signed_as=record.signed_as,
            allow_downgrade=record.allow_downgrade,
        )

    def why_empty(self) -> str:
        """Return why nothing is deployed, and what is expected."""
        return f"holds no record. {self.expected}"

    def forget(self, path: Path) -> None:
        """Remove the record that a stopped component has left. Raises OSError."""
        try:
            is_left = records.read(path).component_stopped
        except (OSError, ValueError):
            return  # it is gone, or somebody's own
        if is_left:
            path.unlink()


def check_folder(folder: Path) -> None:
    """Raise ValueError: why it can't be used as a folder."""
    try:
        if folder.stat() and folder.is_dir():
            return
    except FileNotFoundError:
        raise ValueError("doesn't exist") from None
    except OSError as error:
        raise ValueError(f"can't be read ({error.strerror})") from None
    raise ValueError("is a file, and no folder")


def _version(path: Path) -> Tuple[Path, int, int]:
    """Return which file a record is; every time a component writes it, it is another one."""
    facts = path.lstat()
    return path, facts.st_ino, facts.st_mtime_ns


def _above(source: Source) -> Path:
    return source.folder.resolve().parent


def similar(folder: Path) -> str:
    """Return a sentence with the folder that was probably meant, or nothing."""
    try:
        names = [path.name for path in folder.parent.iterdir() if path.is_dir()]
    except OSError:
        return ""
    close = get_close_matches(folder.name, names, 1)
    return f" Did you mean {folder.parent / close[0]}?" if close else ""


def _of_interest(folder: Path) -> Iterator[Path]:
    """Yield what is a model or may be meant as one; thousands of pictures may lie beside it."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(".") or entry.name in NO_MODELS:
                continue
            is_plain = entry.is_file(follow_symlinks=False)
            if not is_plain or entry.name.lower().endswith((".zip", *ARCHIVES, *GRAPHS)):
                yield folder / entry.name


def _too_deep(folder: Path) -> List[Path]:
    """Return the packages one folder below, as far as that is seen quickly."""
    with suppress(OSError), os.scandir(folder) as entries:
        inner = [folder / entry.name for entry in islice(entries, MOST_INNER) if entry.is_dir()]
        return sorted(path for path in inner if (path / FILE_NAME).is_file())
    return []


def _name(path: Path) -> str:
    return path.stem if path.suffix.lower() == ".zip" else path.name


def _why_no_model(path: Path) -> Optional[str]:
    """Return why a path in the folder of packages is no model; empty: of no interest."""
    try:
        is_zip = path.suffix.lower() == ".zip" and _is_file(path)
        if not is_zip and not _is_file(path / FILE_NAME):
            return _why_no_package(path)
    except OSError:
        return None  # reading it says why it can't be
    if BACKUP.search(_name(path)):
        return "by its name it is a copy that was put aside. Rename it if it is to serve"
    if not re.fullmatch(NAME_PATTERN, _name(path)):
        return f"its name must match {NAME_PATTERN}"
    return None


def _is_file(path: Path) -> bool:
    """Return whether it is a file. Raises OSError when that can't be known."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def _why_no_package(path: Path) -> str:
    suffix = path.suffix.lower()
    if path.is_symlink() and not path.exists():
        return f"it is a link to {os.readlink(path)}, which isn't there"
    if path.is_dir():
        if inner := _too_deep(path):
            return f"the package lies one folder too deep, in {inner[0]}. Move it up"
        return f"it holds no {FILE_NAME}, so it is no model package"
    if suffix in GRAPHS:
        return (
            "a model file alone is no package. Make a folder with edge-agent train, or see "
            "docs/packaging.md, 'An ONNX file instead of a package'"
        )
    if suffix in ARCHIVES:
        return "of archives only .zip is read. Unpack it, so that it is a folder"
    return ""
