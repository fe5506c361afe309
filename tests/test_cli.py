"""What stands around every command: its output, what the system refuses, and how it ends."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import List

import pytest

from edge_agent import version
from edge_agent.cli import main
from edge_agent.runtime.engines.cache import default_cache
from edge_agent.runtime.processes import inquiry


def ended(words: List[str], **how: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edge_agent", *words]
    return subprocess.run(command, stderr=subprocess.PIPE, text=True, timeout=60, **how)  # type: ignore[call-overload,no-any-return]


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.EROFS, "/out/a: Read-only file system. Give user "),
        (errno.EACCES, "/out/a: Permission denied. Give user "),
        (errno.ENOSPC, "/out/a: No space left on device. Free space there"),
        (errno.EDQUOT, "/out/a: Disk quota exceeded. Free space there"),
        (errno.ENOTDIR, "/out/a: Not a directory.\n"),
    ],
)
def test_what_the_system_refuses_is_a_sentence(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    number: int,
    words: str,
) -> None:
    def refuse(_: object) -> int:
        raise OSError(number, os.strerror(number), "/out/a")

    monkeypatch.setattr(version, "run", refuse)
    assert main(["version"]) == 2
    assert capsys.readouterr().err.startswith(f"edge-agent: {words}")


def test_output_to_a_full_disk_is_refused_in_words() -> None:
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "edge_agent", "version"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(b"edge-agent: No space left on device.")
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("words", "status"),  # argparse doesn't mind; rich ends with 1
    [("version", 141), ("--help", 0), ("jobs list", 1), ("doctor", 1)],
)
def test_a_command_whose_reader_has_enough_ends_quietly(
    words: str, status: int, tmp_path: Path
) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        found = ended(words.split(), stdout=writer, cwd=tmp_path)
    finally:
        os.close(writer)
    assert found.stderr == ""
    assert found.returncode == status or words == "--help"  # which argparse writes as it likes


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


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Be a user without HOME and without an entry in /etc/passwd, as containers have them."""
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 54321)


@pytest.mark.usefixtures("nobody")
def test_without_a_home_folder_jobs_ask_for_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["jobs", "list"]) == 2
    assert "--jobs-folder is '~/.local/share/edge-agent/jobs', but " in capsys.readouterr().err


@pytest.mark.usefixtures("nobody")
def test_without_a_home_folder_engines_are_kept_with_the_systems_caches() -> None:
    assert default_cache() == Path("/var/cache/edge-agent/engines")


def test_an_inquiry_that_cannot_be_started_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inquiry, "python_module", lambda _module: ("/dev/null",))
    facts, ending = inquiry.ask("m", "looks for the GPU", 5.0)
    assert facts == []
    assert ending == "The process that looks for the GPU can't be started: Permission denied."
