"""Questions to a process of its own: what counts as reported, and how its end is put into words."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any, List, Tuple

import pytest

from edge_agent.runtime.processes.inquiry import ask
from tests import ROOT


def reported(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    source: str,
    timeout_s: float = 60.0,
    content: bytes = b"",
) -> Tuple[List[Any], str]:
    """Ask a module with this source."""
    (folder / "asked.py").write_text(source)
    monkeypatch.setenv("PYTHONPATH", f"{folder}:{ROOT}")
    return ask("asked", "looks around", timeout_s, content)


ANSWERS = """
import os
from edge_agent.runtime.processes.parent import answering
with answering() as report:
    report({"first": 1})
    %s
    report({"second": [2]})
"""


def test_each_message_is_a_fact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    facts, ending = reported(tmp_path, monkeypatch, ANSWERS % "pass")

    assert facts == [{"first": 1}, {"second": [2]}]
    assert ending.startswith(
        "The process that looks around ended with exit status 0. Try it by hand: "
    )
    assert ending.endswith(" -m asked")


def test_by_hand_it_prints_the_facts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, ending = reported(tmp_path, monkeypatch, ANSWERS % "pass")

    by_hand = ending.rpartition(": ")[2].split()
    assert by_hand[0] == sys.executable
    assert subprocess.run(by_hand, check=True, stdout=subprocess.PIPE).stdout == (
        b'{"first": 1}\n{"second": [2]}\n'
    )


def test_a_module_that_lies_where_the_agent_works_is_never_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poisoned = tmp_path / "poisoned"
    poisoned.mkdir()
    for name in ("logging", "tensorrt", "asked"):
        (poisoned / f"{name}.py").write_text("raise SystemExit('poisoned')")
    monkeypatch.chdir(poisoned)

    assert reported(tmp_path, monkeypatch, f"import logging\n{ANSWERS % 'pass'}")[0] == [
        {"first": 1}, {"second": [2]}
    ]  # fmt: skip


@pytest.mark.parametrize(
    "noise",
    [
        """os.write(1, b'{"third": 3}\\n'); print({"fourth": 4})""",
        *(f"print({line})" for line in ["7", "None", "[1]", "'{'", "'x'", "'[' * 100000"]),
    ],
)
def test_what_libraries_print_is_no_fact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, noise: str
) -> None:
    facts, ending = reported(tmp_path, monkeypatch, ANSWERS % noise)

    assert facts == [{"first": 1}, {"second": [2]}]
    assert "ended with exit status 0" in ending


def test_large_content_is_on_its_stdin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = bytes(range(256)) * 10_000
    digest = "hashlib.sha256(sys.stdin.buffer.read()).digest()[0]"
    check = f'import hashlib, sys; report({{"sha": {digest}}})'

    facts, _ = reported(tmp_path, monkeypatch, ANSWERS % check, content=content)
    empty, _ = reported(tmp_path, monkeypatch, ANSWERS % check)

    assert (facts[1], empty[1]) == ({"sha": 0x23}, {"sha": 0xE3})


@pytest.mark.parametrize(
    ("end", "words"),
    [
        ("os._exit(3)", "ended with exit status 3"),
        ("os.kill(os.getpid(), 9)", "was ended by SIGKILL (Killed)"),
        ("os.kill(os.getpid(), 40)", "was ended by signal 40"),
        (
            "raise OSError('no such card')",
            "ended with exit status 1; its last line: OSError: no such card",
        ),
    ],
)
def test_what_was_reported_before_the_end_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str, words: str
) -> None:
    facts, ending = reported(tmp_path, monkeypatch, ANSWERS % end)

    assert facts == [{"first": 1}]
    assert f"The process that looks around {words}. " in ending


def test_one_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hang = "print(os.getpid()); import signal; signal.pause()"

    facts, ending = reported(tmp_path, monkeypatch, ANSWERS % hang, timeout_s=3.0)

    assert facts == [{"first": 1}]
    assert "was ended because it took more than 3 s; the driver may hang" in ending
