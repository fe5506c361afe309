"""Asks the advisory databases about both sets of dependencies, as scripts/audit does.

Fails (1) for a hole that advisories.md doesn't accept. Where no database can be reached, it says so
in one line and succeeds: then advisories.md stands.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any, Dict, FrozenSet, Iterator, List, NamedTuple, Optional, Set

from packaging.requirements import Requirement

HERE = Path(__file__).resolve().parent
LIST = HERE / "advisories.md"
# Of our distribution.
EXTRAS = ("", "device", "cpu", "onnx", "train", "package", "publish", "signing")
WITHIN_S = 300.0


class Entry(NamedTuple):
    """A row of advisories.md."""

    package: str
    ids: FrozenSet[str]
    affected: str
    fixed: str  # "none" where no release is
    pythons: str  # 3.8, 3.8+ or 3.8-3.10
    effect: str
    done: str

    @property
    def is_accepted(self) -> bool:
        """Whether a version with this hole may be installed."""
        return self.done.startswith(("accepted: ", "not used: "))


def date(text: str) -> str:
    """Return the day on which the list was looked through, as 2026-11-29."""
    (found,) = re.findall(r"^Looked through: (\d{4}-\d\d-\d\d)$", text, re.MULTILINE)
    return str(found)


def entries(text: str) -> List[Entry]:
    """Return the rows of the list's one table."""
    rows = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in row] for row in rows[2:]]
    return [Entry(row[0], frozenset(row[1].split(", ")), *row[2:]) for row in cells]


def normal(name: str) -> str:
    """Return a distribution's name as all spellings of it are compared."""
    return re.sub(r"[-_.]+", "-", name).lower()


def installed() -> List[str]:
    """Return name==version of what the product needs and this Python has; no tools of tests."""
    found: Dict[str, str] = {}
    queue = ["edge-agent"]
    while queue:
        name = queue.pop()
        try:
            there = distribution(name)
        except PackageNotFoundError:
            continue  # an extra that isn't installed
        found[name] = there.version
        extras = EXTRAS if name == "edge-agent" else ("",)
        for needed in map(Requirement, there.requires or []):
            marker = needed.marker
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in extras):
                queue += {normal(needed.name)} - found.keys()
    del found["edge-agent"]
    return sorted(f"{name}=={version}" for name, version in found.items())


def pinned() -> List[str]:
    """Return the lines of jetson.txt."""
    lines = (HERE / "jetson.txt").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def ask(program: str, pins: List[str]) -> Optional[List[Dict[str, Any]]]:
    """Return what pip-audit tells of each pin; None where it reached no database."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write("\n".join(pins) + "\n")
        file.flush()
        options = ["-f", "json", "--progress-spinner", "off", "--no-deps", "--disable-pip"]
        try:
            done = subprocess.run(
                [program, *options, "-r", file.name], capture_output=True, text=True,
                timeout=WITHIN_S, check=False,
            )  # fmt: skip
            told: List[Dict[str, Any]] = json.loads(done.stdout)["dependencies"]
        except (OSError, ValueError, subprocess.TimeoutExpired):
            return None
    # A mirror without the database's pages says of each library that it doesn't know it.
    return told if any("vulns" in library for library in told) else None


def faults(told: List[Dict[str, Any]], listed: List[Entry]) -> Iterator[str]:
    """Yield a sentence for each hole that the list doesn't accept."""
    accepted: Dict[str, Set[str]] = {}
    for entry in listed:
        if entry.is_accepted:
            accepted.setdefault(normal(entry.package), set()).update(entry.ids)
    for library in told:
        known = accepted.get(normal(library["name"]), set())
        for hole in library.get("vulns", ()):
            names = [hole["id"], *hole["aliases"]]
            if known.isdisjoint(names):
                fixed = ", ".join(hole["fix_versions"]) or "no release"
                yield (
                    f"{library['name']} {library['version']}: {', '.join(names)}, fixed in {fixed}."
                    " Raise the bound, or say in requirements/advisories.md why it may stay."
                )


def main(program: str) -> int:
    """Judge both sets; 1 when a hole isn't accepted."""
    text = LIST.read_text()
    results = [
        judge(name, ask(program, pins), text)
        for name, pins in (("installed", installed()), ("jetson.txt", pinned()))
    ]
    return max(results)


def judge(name: str, told: Optional[List[Dict[str, Any]]], text: str) -> int:
    """Say what was found in the set `name`; 1 when a hole isn't accepted."""
    if told is None:
        sentence = f"no advisory database was reached; {LIST.name} of {date(text)} stands."
        sys.stdout.write(f"audit: {name}: {sentence}\n")
        return 0
    found = list(faults(told, entries(text)))
    for sentence in found:
        sys.stderr.write(f"audit: {name}: {sentence}\n")
    unknown = ", ".join(library["name"] for library in told if "vulns" not in library)
    sentence = f"the database doesn't know {unknown}." if unknown else "all libraries looked up."
    sys.stdout.write(f"audit: {name}: {sentence}\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
