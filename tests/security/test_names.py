"""Names that look like another: a line feed at their end gets past a pattern that ends in `$`."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Iterator, List

import pytest

import edge_agent
from edge_agent.cli import main
from edge_agent.config import ModelsSettings
from edge_agent.errors import InvalidConfiguration
from edge_agent.fields import read, read_json
from edge_agent.packaging.component_spec import Component
from edge_agent.runtime.packages.deployments import Store
from edge_agent.runtime.packages.records import Record
from edge_agent.training.trainer import checked_name
from tests.fakes import micro

WIDE = "\N{FULLWIDTH LATIN SMALL LETTER B}olts"
HOSTILE = [
    "bolts\n",
    "bolts\r\n",
    "\nbolts",
    "bolts\0",
    "bolts\u2028",
    "bo lts",
    "bölts",
    "",
    WIDE,
]


@pytest.mark.parametrize("name", HOSTILE[:1] + HOSTILE[2:3] + HOSTILE[4:7])
def test_a_folder_of_a_hostile_name_is_no_model(tmp_path: Path, name: str) -> None:
    micro.write(tmp_path / name, "classification")
    micro.write(tmp_path / "bolts", "classification")
    assert list(Store(ModelsSettings(folder=tmp_path)).scan()) == ["bolts"]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_record_of_a_hostile_name_is_refused(name: str) -> None:
    record = {"model_component": name, "package": "/models/bolts"}
    with pytest.raises(ValueError, match="model_component"):
        read_json(Record, json.dumps(record).encode())


@pytest.mark.parametrize("name", HOSTILE)
def test_a_component_of_a_hostile_name_or_version_is_refused(name: str) -> None:
    for changed in ({"name": name}, {"agent": name}, {"version": f"1.0.0{name or ' '}"}):
        values = {"name": "bolts", "version": "1.0.0", "description": "Bolts", **changed}
        with pytest.raises(ValueError, match=next(iter(changed))):
            read(Component, values)


@pytest.mark.parametrize("name", HOSTILE)
def test_neither_a_model_is_trained_nor_an_agent_built_under_a_hostile_name(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(InvalidConfiguration, match="can't be named"):
        checked_name(name)
    out = tmp_path / "agent"
    assert main(["component", "build", "--component-name", name, "--out", str(out)]) != 0
    assert "--component-name" in capsys.readouterr().err
    assert not out.exists()


def patterns() -> Iterator[str]:
    """Yield each call of the package that a name could get past: `re.match(...)` up to a `$`."""
    for file in sorted(Path(edge_agent.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                words = [ast.unparse(word) for word in node.args] if hasattr(ast, "unparse") else []
                module = getattr(node.func.value, "id", "")
                if (module, node.func.attr) == ("re", "match") and words:
                    yield f"{file.name}:{node.lineno} {words[0]}"


def test_no_name_is_checked_by_a_match_that_may_end_before_a_line_feed() -> None:
    """`re.fullmatch` takes all of a text or nothing."""
    suspects: List[str] = [call for call in patterns() if call.endswith(("$'", '$"', "_PATTERN"))]
    assert not suspects
