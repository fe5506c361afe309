"""Questions to a process of its own: what counts as told, and how its end is put into words."""

from __future__ import annotations

from pathlib import Path
from typing import Any, List, Tuple

import pytest

from edge_agent.runtime.engines.inquiry import ask
from tests import ROOT


def told(
    folder: Path, monkeypatch: pytest.MonkeyPatch, source: str, timeout_s: float = 60.0
) -> Tuple[List[Any], str]:
    """Ask a module with this source."""
    (folder / "asked.py").write_text(source)
    monkeypatch.setenv("PYTHONPATH", f"{folder}:{ROOT}")
    return ask("asked", "looks around", timeout_s)


ANSWERS = """
import os
from edge_agent.runtime.engines.inquiry import answering
with answering() as tell:
    tell({"first": 1})
    %s
    tell({"second": [2]})
"""


def test_each_line_is_a_fact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    facts, ending = told(tmp_path, monkeypatch, ANSWERS % "pass")

    assert facts == [{"first": 1}, {"second": [2]}]
    assert ending.startswith("The process that looks around ended with exit code 0. Try it by hand")
    assert ending.endswith(" -m asked")


def test_a_module_that_lies_where_the_agent_works_is_never_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poisoned = tmp_path / "poisoned"
    poisoned.mkdir()
    for name in ("logging", "tensorrt", "asked"):
        (poisoned / f"{name}.py").write_text("print('{\"poisoned\": true}')")
    monkeypatch.chdir(poisoned)

    assert told(tmp_path, monkeypatch, f"import logging\n{ANSWERS % 'pass'}")[0] == [
        {"first": 1}, {"second": [2]}
    ]  # fmt: skip


def test_what_libraries_print_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = """os.write(1, b'{"third": 3}\\n'); print({"fourth": 4})"""

    assert told(tmp_path, monkeypatch, ANSWERS % noise)[0] == [{"first": 1}, {"second": [2]}]


@pytest.mark.parametrize("line", ["7", "null", "[1]", "'{'", "'x'", "'[' * 100000"])
def test_a_line_that_is_no_object_is_no_fact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    shown = line if "'" in line else repr(line)

    assert told(tmp_path, monkeypatch, f"print({shown})")[0] == []


@pytest.mark.parametrize(
    ("end", "words"),
    [
        ("os._exit(3)", "ended with exit code 3"),
        ("os.kill(os.getpid(), 9)", "was ended by SIGKILL"),
        ("os.kill(os.getpid(), 40)", "was ended by signal 40"),
        ("raise OSError('no such card')", "ended with exit code 1: OSError: no such card"),
    ],
)
def test_what_was_told_before_the_end_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str, words: str
) -> None:
    facts, ending = told(tmp_path, monkeypatch, ANSWERS % end)

    assert facts == [{"first": 1}]
    assert f"The process that looks around {words}. " in ending


def test_one_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hang = "print(os.getpid()); import signal; signal.pause()"

    facts, ending = told(tmp_path, monkeypatch, ANSWERS % hang, timeout_s=3.0)

    assert facts == [{"first": 1}]
    assert "didn't finish within 3 s; the driver may hang" in ending
