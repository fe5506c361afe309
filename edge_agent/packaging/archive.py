"""The component's zip: the verified model package and, beside it, the program that registers it.

The same package gives the same bytes on every machine and day: names are sorted, dates and modes
fixed, and nothing is compressed, as zlib's versions differ and weights hardly shrink.
"""

from __future__ import annotations

import stat
import zipfile
from pathlib import Path
from typing import Iterator, Tuple

from edge_agent.errors import InvalidPackage
from edge_agent.manifest import FILE_NAME
from edge_agent.packaging import register
from edge_agent.runtime.package import Package

PROGRAM = "register.py"
DATE = (1980, 1, 1, 0, 0, 0)  # the earliest a zip can hold
MODE = stat.S_IFREG | 0o644
UNIX = 3


def write(path: Path, package: Package) -> None:
    """Write the zip. Raises InvalidPackage when a file of the package isn't as its manifest says.

    The package's files lie at the zip's root, so that `path` itself is a model package as well.
    """
    package.read_model()  # refuses a graph that needs files from elsewhere
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as bundle:
        for name, content in _members(package):
            entry = zipfile.ZipInfo(name, DATE)
            entry.create_system, entry.external_attr = UNIX, MODE << 16
            bundle.writestr(entry, content)


def _members(package: Package) -> Iterator[Tuple[str, bytes]]:
    names = sorted([FILE_NAME, PROGRAM, *(entry.path for entry in package.manifest.files)])
    for name in (FILE_NAME, PROGRAM):
        if names.count(name) > 1:
            raise InvalidPackage(f"{package.path} lists a file {name}; a component has its own.")
    own = {FILE_NAME: package.manifest.to_json(), PROGRAM: Path(register.__file__).read_bytes()}
    for name in names:
        yield name, own[name] if name in own else package.read(name)
