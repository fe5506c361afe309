"""A model package on disk, a folder or a zip: every byte is verified before anyone sees it.

Only the manifest, its signature and files that it lists are ever read, and they are read into
memory, never unpacked: a path that leads elsewhere, a link or a bomb has nothing to act on. Other
files may lie beside them; nobody looks at those.
"""

from __future__ import annotations

import hashlib
import os
import stat
from contextlib import suppress
from itertools import chain, islice
from pathlib import Path
from typing import Iterable, List, Optional, Tuple, Type

from edge_agent.errors import InvalidPackage
from edge_agent.manifest import FILE_NAME, GREY_BAND_FILE, MODEL_FILE, Manifest, parse
from edge_agent.runtime.packages import external_data, files, signature
from edge_agent.runtime.packages.signature import Identity, TrustedKeys

MANIFEST_LIMIT_BYTES = 1024 * 1024
DEFAULT_LIMIT_BYTES = 2048 * 1024 * 1024
MOST_FILES = 1024  # listed; a package for calibration has some 530
MOST_LOOKED_AT = 4096  # files in its folder, of a package that may still be written
SENTENCE_LENGTH = 2000  # of what is wrong with a manifest; one answer lists all models


class Package:
    """The manifest of a package and its files.

    digest: names this very content. is_signed: one of the keys that this device trusts signed it;
    False as well where it trusts none. identity: what it was signed as, if that is known.
    """

    def __init__(
        self,
        path: Path,
        limit_bytes: int = DEFAULT_LIMIT_BYTES,
        trusted: Optional[TrustedKeys] = None,
    ) -> None:
        """Read the manifest; with `trusted`, one of these keys must have signed it.

        Raises InvalidPackage: what is wrong with which file.
        """
        self.path, self.is_signed = path, trusted is not None
        self.identity: Optional[Identity] = None
        content = files.read(path, FILE_NAME, MANIFEST_LIMIT_BYTES)
        if trusted is not None:
            signed = files.find(path, signature.FILE_NAME, signature.LIMIT_BYTES)
            self.identity = trusted.check(path, content, signed)
        self.manifest = _parse(content)
        self.digest = hashlib.sha256(content).hexdigest()
        names = {entry.path for entry in self.manifest.files}
        if len(names) < len(self.manifest.files):
            raise InvalidPackage(
                f"{path}: {FILE_NAME} lists a file twice; create the package again."
            )
        if len(names) > MOST_FILES:
            raise InvalidPackage(
                f"{path} lists {len(names)} files; at most {MOST_FILES} are allowed. Leave out "
                "what the model doesn't need."
            )
        total = sum(entry.size for entry in self.manifest.files)
        if total > limit_bytes:
            raise InvalidPackage(
                f"{path} holds {total} bytes; the limit is {limit_bytes} "
                "(setting models.package_limit_mib)."
            )
        if self.manifest.has_grey_band_file:
            self.manifest = self.manifest.with_grey_band(self.read(GREY_BAND_FILE))

    def read(self, name: str) -> bytes:
        """Return the file's verified content. Raises InvalidPackage when it is not as listed."""
        entry = next((entry for entry in self.manifest.files if entry.path == name), None)
        if entry is None:
            raise InvalidPackage(f"{self.path} doesn't list a file {name!r} in its manifest.")
        content = files.read(self.path, name, entry.size)
        digest = hashlib.sha256(content).hexdigest()
        if len(content) != entry.size or digest != entry.sha256:
            raise InvalidPackage(
                f"{self.path}: {name} was altered or damaged. Its sha-256 is {digest} "
                f"({len(content)} bytes); the manifest says {entry.sha256} ({entry.size} bytes). "
                "Deploy it again."
            )
        return content

    def verify(self) -> None:
        """Raise InvalidPackage unless every file is as the manifest says, used here or not."""
        for entry in self.manifest.files:
            self.read(entry.path)

    def check_sizes(self) -> None:
        """Raise InvalidPackage unless every listed file of a folder is there in its size.

        Files of a zip are: its directory, which comes last, has been checked.
        """
        if not self.path.is_dir():
            return
        for entry in self.manifest.files:
            size = files.size_in_folder(self.path, entry.path)
            if size != entry.size:
                raise InvalidPackage(
                    f"{self.path}: {entry.path} "
                    + ("is missing." if size is None else f"isn't {entry.size} bytes long.")
                )

    def read_model(self, graph: str = MODEL_FILE) -> bytes:
        """Return the verified ONNX file; it refers to nothing outside itself."""
        model = self.read(graph)
        external_data.check(model)
        return model


def stamp(path: Path) -> Tuple[int, ...]:
    """Return what changes when the package at `path` is replaced. Raises OSError."""
    if not stat.S_ISDIR(path.stat().st_mode):
        return _facts([path])
    return _facts(path / name for name in (FILE_NAME, signature.FILE_NAME, MODEL_FILE))


def fingerprint(path: Path) -> Tuple[int, ...]:
    """Return what changes as long as any file of the package is being written. Raises OSError."""
    walked = ((folder, name) for folder, *names in os.walk(path) for name in chain(*names))
    names = sorted(Path(*place) for place in islice(walked, MOST_LOOKED_AT))
    return (*stamp(path), *_facts([path]), *_facts(names, OSError))  # links may lead anywhere


def _facts(
    paths: Iterable[Path], passed_over: Type[OSError] = FileNotFoundError
) -> Tuple[int, ...]:
    """Return inode, time and size of those that are there. Raises OSError but for `passed_over`."""
    found: List[int] = []
    for path in paths:
        with suppress(passed_over):
            facts = path.stat()
            found += (facts.st_ino, facts.st_mtime_ns, facts.st_size)
    return tuple(found)


def _parse(content: bytes) -> Manifest:
    try:
        return parse(content)
    except InvalidPackage as error:
        text = str(error)
        if len(text) > SENTENCE_LENGTH:
            text = f"{text[:SENTENCE_LENGTH]} ... and more."
        raise InvalidPackage(text) from None
