"""The component's zip: the model package and, as files of it, its bill of materials and the program
that registers it; all that the manifest lists, and so all that its signature covers.

The same package gives the same bytes on every machine and day: names are sorted, dates and modes
fixed, and nothing is compressed, as zlib's versions differ and weights hardly shrink.
"""  # noqa: D205

from __future__ import annotations

import stat
import zipfile
from pathlib import Path
from typing import Iterable, Iterator, Optional, Tuple

from edge_agent.errors import InvalidPackage
from edge_agent.manifest import FILE_NAME, parse
from edge_agent.packaging import bom, register, signing
from edge_agent.packaging.draft import PackageDraft
from edge_agent.runtime.packages import signature

PROGRAM = "register.py"
DATE = (1980, 1, 1, 0, 0, 0)  # the earliest a zip can hold
MODE = stat.S_IFREG | 0o644
UNIX = 3


def write(path: Path, draft: PackageDraft, signer: Optional[signing.Signer] = None) -> None:
    """Write the zip. Raises InvalidPackage when a file isn't as the manifest says.

    The package's files lie at the zip's root, so that `path` itself is a model package as well.
    Raises InvalidConfiguration when the key can't sign.
    """
    draft.read_model()  # refuses a graph that needs files from elsewhere
    draft = draft.add({PROGRAM: Path(register.__file__).read_bytes()})
    draft = draft.add({bom.FILE_NAME: bom.of_model(draft.manifest)})
    write_zip(path, _members(draft, signer))


def write_zip(path: Path, members: Iterable[Tuple[str, bytes]]) -> None:
    """Write a zip whose bytes depend on the names and contents only; nothing is compressed."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as bundle:
        for name, content in members:
            entry = zipfile.ZipInfo(name, DATE)
            entry.create_system, entry.external_attr = UNIX, MODE << 16
            bundle.writestr(entry, content)


def _members(draft: PackageDraft, signer: Optional[signing.Signer]) -> Iterator[Tuple[str, bytes]]:
    """Yield the manifest, its signature and the rest; an agent finds the first two at once."""
    files = tuple(sorted(draft.manifest.files, key=lambda entry: entry.path))
    reserved = {FILE_NAME, signature.FILE_NAME} & {entry.path for entry in files}
    if reserved:
        raise InvalidPackage(
            f"The package lists a file {min(reserved)}, which packages have anyway."
        )
    manifest = draft.manifest.model_copy(update={"files": files}).to_json()
    parse(manifest)
    yield FILE_NAME, manifest
    if signer is not None:
        yield signature.FILE_NAME, signer.sign(manifest)
    for entry in files:
        yield entry.path, draft.read(entry.path)
