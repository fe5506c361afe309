"""The agent component's zip for one architecture: wheels, what installs them, bill of materials.

install.py           see there
wheels.json          which wheels, for which Python, with their sha-256
wheels/NAME.xz       a wheel whose own compression was undone before: so xz saves a third of it
wheels/NAME          at compression 0, the wheel as the index has it
bom.cdx.json         bill of materials; its digests are those of the wheels as the index has them

Dates and modes are fixed and names are sorted: the same wheels give the same bytes, as long as it's
the same liblzma that compresses.
"""

from __future__ import annotations

import hashlib
import io
import json
import lzma
import os
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Dict, List, Tuple

from edge_agent.errors import InvalidConfiguration
from edge_agent.packaging import bom
from edge_agent.packaging.agent import install
from edge_agent.packaging.archive import DATE, MODE, UNIX

PROGRAM = "install.py"


def write(path: Path, pythons: Dict[str, List[Path]], facts: Dict[str, Any], level: int) -> None:
    """Write the zip.

    `pythons` are the wheels for each Python, `facts` the rest of wheels.json (see
    `install.Content`), `level` xz's, or 0 for none. Raises InvalidConfiguration, OSError.
    """
    wheels = _by_name(pythons)
    with ThreadPoolExecutor(os.cpu_count()) as workers:
        packed = dict(zip(wheels, workers.map(lambda wheel: pack(wheel, level), wheels.values())))
    content = {
        **facts,
        "pythons": {python: [wheel.name for wheel in pythons[python]] for python in pythons},
        "sha256": {name: digest for name, (digest, _, _) in packed.items()},
    }
    members = {
        PROGRAM: Path(install.__file__).read_bytes(),
        install.LIST: (json.dumps(content, indent=1, sort_keys=True) + "\n").encode(),
        bom.FILE_NAME: bom.of_agent(facts["name"], facts["version"], list(wheels.values())),
        **{member: compressed for _, member, compressed in packed.values()},
    }
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as bundle:
        for name in sorted(members):
            entry = zipfile.ZipInfo(name, DATE)
            entry.create_system, entry.external_attr = UNIX, MODE << 16
            bundle.writestr(entry, members[name])


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


def _by_name(pythons: Dict[str, List[Path]]) -> Dict[str, Path]:
    found: Dict[str, Path] = {}
    for wheel in sorted(path for wheels in pythons.values() for path in wheels):
        other = found.setdefault(wheel.name, wheel)
        if other.read_bytes() != wheel.read_bytes():
            raise InvalidConfiguration(f"The index has two different files {wheel.name}.")
    return {name: found[name] for name in sorted(found)}
