from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import List, Tuple

import pytest

from edge_agent.cli import main
from edge_agent.evaluation import steps
from tests.training import pictures


def output(read_fd: int) -> bytes:
    found = b""
    while True:
        try:
            part = os.read(read_fd, 65536)
        except OSError:  # the other side of the terminal is closed
            return found
        if not part:
            return found
        found += part


def on_a_terminal(words: List[str]) -> Tuple[str, str]:
    """Run with a terminal as standard error; return what standard output and it were given."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=theirs) as process:
        os.close(theirs)
        shown = output(ours)
        assert process.stdout is not None
        told = process.stdout.read()
    os.close(ours)
    assert process.returncode == 0
    return told.decode(), shown.decode()


SHOW = """
from edge_agent.evaluation.steps import on_terminal
with on_terminal() as steps:
    for item in steps.each(range(3), "Reading images"):
        pass
    with steps.during("Training"):
        print("a line")
"""


def test_a_terminal_shows_each_step_and_the_lines_stay_in_the_output() -> None:
    told, shown = on_a_terminal([sys.executable, "-W", "ignore", "-c", SHOW])
    assert told == "a line\n"
    assert "Reading images" in shown
    assert "Training" in shown
    assert "left:" in shown


def test_nothing_is_shown_where_there_is_no_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    with steps.on_terminal() as shown:
        assert list(shown.each([1, 2], "Reading images")) == [1, 2]
        with shown.during("Training"):
            pass
    assert capfd.readouterr() == ("", "")


def test_a_quiet_training_writes_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = pictures.write(tmp_path / "parts", 10)
    out = tmp_path / "out"
    assert main(["train", str(folder), "--out", str(out), "--size", "96x128", "--quiet"]) == 0
    assert capfd.readouterr() == ("", "")
    assert (out / "manifest.json").is_file()
