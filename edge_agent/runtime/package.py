"""A model package on disk, a folder or a zip: every byte is verified before anyone sees it.

Only files that the manifest lists are ever read, and they are read into memory, never unpacked: a
path that leads elsewhere, a link or a bomb has nothing to act on.
"""

from __future__ import annotations

import hashlib
import lzma
import os
import stat
import zipfile
import zlib
from pathlib import Path
from typing import Tuple

from edge_agent.errors import InvalidPackage
from edge_agent.manifest import FILE_NAME, MODEL_FILE, Manifest, parse
from edge_agent.runtime import onnx_file

# What zipfile raises on damaged or foreign archives, its decompressors' own errors included.
_BAD_ZIP = (
    zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, ValueError, zlib.error,
    lzma.LZMAError,
)  # fmt: skip
MANIFEST_LIMIT_BYTES = 1024 * 1024
DEFAULT_LIMIT_BYTES = 2048 * 1024 * 1024


class Package:
    """The manifest of a package and its files. `digest` names this very content."""

    def __init__(self, path: Path, limit_bytes: int = DEFAULT_LIMIT_BYTES) -> None:
        """Read the manifest. Raises InvalidPackage: what is wrong with which file."""
        self.path = path
        content = _read(path, FILE_NAME, MANIFEST_LIMIT_BYTES)
        self.manifest: Manifest = parse(content)
        self.digest = hashlib.sha256(content).hexdigest()
        total = sum(entry.size for entry in self.manifest.files)
        if total > limit_bytes:
            raise InvalidPackage(
                f"{path} holds {total} bytes; the limit is {limit_bytes} "
                "(setting models.package_limit_mib)."
            )

    def read(self, name: str) -> bytes:
        """Return the file's verified content. Raises InvalidPackage when it is not as listed."""
        entry = next((entry for entry in self.manifest.files if entry.path == name), None)
        if entry is None:
            raise InvalidPackage(f"{self.path} doesn't list a file {name!r} in its manifest.")
        content = _read(self.path, name, entry.size)
        digest = hashlib.sha256(content).hexdigest()
        if len(content) != entry.size or digest != entry.sha256:
            raise InvalidPackage(
                f"{self.path}: {name} was altered or damaged. Its sha-256 is {digest} "
                f"({len(content)} bytes); the manifest says {entry.sha256} ({entry.size} bytes)."
            )
        return content

    def read_model(self) -> bytes:
        """Return the verified ONNX file; it refers to nothing outside itself."""
        model = self.read(MODEL_FILE)
        onnx_file.check(model)
        return model


def stamp(path: Path) -> Tuple[int, ...]:
    """Return what changes when the package at `path` is replaced; empty when nothing is there."""
    files = (path / FILE_NAME, path / MODEL_FILE) if path.is_dir() else (path,)
    try:
        facts = [file.stat() for file in files if file.exists()]
    except OSError:
        return ()
    return tuple(value for fact in facts for value in (fact.st_ino, fact.st_mtime_ns, fact.st_size))


def _read(package: Path, name: str, limit_bytes: int) -> bytes:
    """Read at most `limit_bytes` of a file; a longer one is an error."""
    try:
        read = _read_from_folder if package.is_dir() else _read_from_zip
        content = read(package, name, limit_bytes)
    except OSError as error:
        raise InvalidPackage(f"{package}: can't read {name}: {error.strerror}.") from None
    except _BAD_ZIP as error:
        raise InvalidPackage(f"{package} isn't a readable zip: {error}.") from None
    if len(content) > limit_bytes:
        raise InvalidPackage(f"{package}: {name} is larger than {limit_bytes} bytes.")
    return content


def _read_from_folder(folder: Path, name: str, limit_bytes: int) -> bytes:
    base = folder.resolve()
    if (base / name).resolve() != base / name:
        raise InvalidPackage(f"{folder}: {name} is a link; packages hold plain files only.")
    descriptor = os.open(base / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise InvalidPackage(f"{folder}: {name} isn't a plain file.")
        return file.read(limit_bytes + 1)


def _read_from_zip(archive: Path, name: str, limit_bytes: int) -> bytes:
    with zipfile.ZipFile(archive) as bundle:
        for entry in bundle.infolist():
            parts = Path(entry.filename).parts
            if entry.filename.startswith("/") or ".." in parts:
                raise InvalidPackage(f"{archive}: {entry.filename!r} leads out of the package.")
            if stat.S_ISLNK(entry.external_attr >> 16):
                raise InvalidPackage(f"{archive}: {entry.filename} is a link.")
        if name not in bundle.namelist():
            raise InvalidPackage(f"{archive}: {name} is missing; it must stand at the zip's root.")
        with bundle.open(name) as file:
            return file.read(limit_bytes + 1)
