"""The bounds of what we build on stand above every known hole, and the list of holes is kept.

The list is requirements/advisories.md. What an installation would choose is asked of no index here:
the bounds were resolved at their lowest for each CPython when they were set.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from datetime import date
from pathlib import Path
from types import ModuleType
from typing import Any, Dict, List, Optional, Tuple

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from tests import ROOT

PYTHONS = tuple(f"3.{minor}" for minor in range(8, 15))


def _module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("audit", ROOT / "requirements" / "audit.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["audit"] = module
    spec.loader.exec_module(module)
    return module


audit = _module()
TEXT = audit.LIST.read_text()
ENTRIES = audit.entries(TEXT)


def bounds() -> List[Requirement]:
    """Every requirement of pyproject.toml, read as text: CPython 3.8 has no reader of TOML."""
    strings = (ROOT / "pyproject.toml").read_text().split("[project.scripts]")[0].split('"')[1::2]
    found = []
    for text in strings:
        try:
            requirement = Requirement(text)
        except ValueError:
            continue
        if requirement.specifier:
            found.append(requirement)
    return found


BOUNDS = bounds()
PINS = {audit.normal(pin.name): pin for pin in map(Requirement, audit.pinned())}


def lowest(package: str, python: str) -> Optional[Version]:
    """The lowest version that every requirement of `package` admits; None: it isn't required."""
    lows = []
    for requirement in BOUNDS:
        marks = {"python_version": python, "python_full_version": f"{python}.2", "extra": ""}
        if audit.normal(requirement.name) != audit.normal(package):
            continue
        if requirement.marker is None or requirement.marker.evaluate(marks):
            (low,) = [
                part.version for part in requirement.specifier if part.operator in (">=", "==")
            ]
            lows.append(Version(low))
    return min(lows) if lows else None


def range_of(pythons: str) -> Tuple[str, ...]:
    first, _, last = pythons.rstrip("+").partition("-")
    until = PYTHONS[-1] if pythons.endswith("+") else last or first
    return PYTHONS[PYTHONS.index(first) : PYTHONS.index(until) + 1]


def label(entry: Any) -> str:
    return f"{entry.package}-{min(entry.ids)}-{entry.pythons}"


def test_the_list_has_a_day_and_whole_rows() -> None:
    assert date(2026, 11, 1) <= date.fromisoformat(audit.date(TEXT)) <= date.today()
    for entry in ENTRIES:
        assert all(entry), entry
        assert all(name.startswith(("CVE-", "GHSA-", "PYSEC-")) for name in entry.ids), entry
        assert range_of(entry.pythons)
        assert entry.fixed == "none" or Version(entry.fixed)
        assert entry.is_accepted or entry.done in ("floor", "pin"), entry.done


@pytest.mark.parametrize("entry", ENTRIES, ids=label)
def test_a_known_hole_is_below_the_bounds_or_out_of_reach(entry: Any) -> None:
    if entry.done.startswith("not used: "):
        names = entry.done.split("`")[1::2]
        assert names
        for path in (ROOT / "edge_agent").rglob("*.py"):
            assert not [name for name in names if name in path.read_text()], path
    elif entry.done == "floor":
        for python in range_of(entry.pythons):
            low = lowest(entry.package, python)
            assert low is not None, f"nothing bounds {entry.package}"
            assert low >= Version(entry.fixed), f"CPython {python}"
    elif entry.done == "pin":
        assert Version(str(PINS[entry.package].specifier)[2:]) >= Version(entry.fixed)
        assert lowest(entry.package, "3.8") >= Version(entry.fixed)


def test_every_hole_is_answered_for_every_python() -> None:
    answered: Dict[Tuple[str, str], List[str]] = {}
    for entry in ENTRIES:
        for name in entry.ids:
            answered.setdefault((entry.package, name), []).extend(range_of(entry.pythons))
    for hole_of, pythons in answered.items():
        assert sorted(pythons) == sorted(PYTHONS), hole_of


def test_a_jetson_pin_is_within_the_bounds() -> None:
    for name, pin in PINS.items():
        low = lowest(name, "3.8")
        assert low is None or Version(str(pin.specifier)[2:]) >= low, name


# scripts/audit, with a program in place of pip-audit that tells what a database would


def told(tmp_path: Path, *libraries: Dict[str, Any]) -> str:
    program = tmp_path / "pip-audit"
    program.write_text(f"#!/bin/sh\necho '{json.dumps({'dependencies': libraries})}'\nexit 1\n")
    program.chmod(0o755)
    return str(program)


def library(name: str, version: str, *holes: Dict[str, Any]) -> Dict[str, Any]:
    return {"name": name, "version": version, "vulns": list(holes)}


def hole(name: str, *aliases: str) -> Dict[str, Any]:
    return {"id": name, "aliases": list(aliases), "fix_versions": ["9.9"]}


def test_a_hole_that_the_list_does_not_know_fails_the_audit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert audit.main(told(tmp_path, library("grpcio", "1.70.0", hole("GHSA-new")))) == 1
    assert "grpcio 1.70.0: GHSA-new, fixed in 9.9. Raise the bound" in capsys.readouterr().err


def test_a_hole_that_a_bound_should_have_excluded_fails_the_audit(tmp_path: Path) -> None:
    entry = next(entry for entry in ENTRIES if entry.done == "floor")
    name = library(entry.package, "1", hole(*entry.ids))
    assert audit.main(told(tmp_path, name)) == 1


def test_a_hole_that_the_list_accepts_by_any_of_its_names_is_no_fault(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    accepted = library("Pygments", "2.19.2", hole("GHSA-unlisted", "CVE-2026-4539"))
    assert audit.main(told(tmp_path, accepted, {"name": "numpy", "skip_reason": "gone"})) == 0
    assert "the database doesn't know numpy." in capsys.readouterr().out


@pytest.mark.parametrize("reached", ["nothing", "a mirror without the database's pages"])
def test_without_a_database_one_line_says_which_list_stands(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], reached: str
) -> None:
    mirror = told(tmp_path, {"name": "numpy", "skip_reason": "not found on PyPI"})
    assert audit.main(mirror if reached != "nothing" else str(tmp_path / "absent")) == 0
    output = capsys.readouterr()
    assert output.err == ""
    for line in output.out.splitlines():
        assert line.endswith(f"advisories.md of {audit.date(TEXT)} stands.")
