"""What stands around every command: its output, and how it ends."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import List

import pytest

from edge_agent import cli


def ended(words: List[str], **how: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edge_agent", *words]
    return subprocess.run(command, stderr=subprocess.PIPE, text=True, timeout=60, **how)  # type: ignore[call-overload,no-any-return]


@pytest.mark.parametrize("words", [["version"], ["--help"], ["jobs", "list"], ["doctor"]])
def test_a_command_whose_reader_has_enough_ends_quietly(words: List[str], tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        found = ended(words, stdout=writer, cwd=tmp_path)
    finally:
        os.close(writer)
    assert found.stderr == ""
    assert found.returncode == 1 or words == ["--help"]  # which argparse writes as it likes


def test_an_output_that_is_full_is_a_sentence() -> None:
    with Path("/dev/full").open("w") as full:
        found = ended(["version"], stdout=full)
    assert found.returncode == 2
    assert found.stderr == "edge-agent: The output: No space left on device.\n"


def test_a_command_that_is_started_without_outputs_does_its_work() -> None:
    code = "import os, sys; os.close(1); os.execv(sys.executable, sys.argv[1:])"
    words = [sys.executable, "-m", "edge_agent", "version"]
    found = subprocess.run([sys.executable, "-c", code, *words], stderr=subprocess.PIPE, timeout=60)
    assert (found.returncode, found.stderr) == (0, b"")


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("unix:///Prüfstand.sock", "there is no such file"),
        ("unix:///\udc80.sock", "isn't UTF-8, which names and addresses must be"),
    ],
)
def test_any_name_can_be_written_in_any_locale(address: str, sentence: str) -> None:
    words = ["models", "list", "--address", address]
    found = ended(words, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert found.returncode == 2
    assert "Traceback" not in found.stderr
    assert sentence in found.stderr


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (PermissionError(13, "Permission denied", "/data/x"), "/data/x: Permission denied."),
        (OSError(28, "No space left on device"), "The output: No space left on device."),
    ],
)
def test_what_the_system_refuses_is_a_sentence(
    error: OSError,
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refuse(_words: List[str]) -> int:
        raise error

    monkeypatch.setattr(cli, "_run", refuse)
    assert cli.main([]) == 2
    assert capsys.readouterr().err == f"edge-agent: {sentence}\n"
