"""SECURITY.md names a test for every promise, and every test of this folder."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import List, Set

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
PAGE = (ROOT / "SECURITY.md").read_text()
ROWS = [
    line.strip("|").split("|") for line in PAGE.splitlines() if re.search(r"`test_\w+\.py", line)
]
NAMED = re.findall(r"`((?:tests/)?[\w/]*test_\w+\.py(?:::\w+)?)`", PAGE)


def file(name: str) -> Path:
    path = name.partition("::")[0]
    return ROOT / path if path.startswith("tests/") else HERE / path


def functions(path: Path) -> Set[str]:
    return {node.name for node in ast.parse(path.read_text()).body if hasattr(node, "name")}


@pytest.mark.parametrize("name", sorted(set(NAMED)))
def test_a_test_it_names_exists(name: str) -> None:
    assert file(name).is_file()
    _, _, function = name.partition("::")
    assert not function or function in functions(file(name))


def test_it_names_every_test_of_attacks() -> None:
    assert {path.name for path in HERE.glob("test_*.py")} <= {file(name).name for name in NAMED}


def test_every_promise_says_against_whom_and_is_shown() -> None:
    assert ROWS
    known = re.findall(r"^\| \*\*(.+?)\*\*", PAGE, re.MULTILINE)
    for against, promise, shown in ROWS:
        parties: List[str] = [party.strip() for party in against.split(",") if party.strip()]
        assert set(parties) <= set(known), against
        assert promise.strip().endswith(".")
        assert "`test_" in shown


def test_a_link_of_the_page_leads_somewhere() -> None:
    for target in re.findall(r"\]\((?!#)([^)]+)\)", PAGE):
        assert (ROOT / target).exists(), target
