from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Iterator

import pytest

from edge_agent.client.segment import FrameSegment
from edge_agent.runtime.system import segment_owner

HOLD = (
    "import os; from edge_agent.client.segment import FrameSegment\n"
    "print(FrameSegment(4096)._path, flush=True); input()"
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(segment_owner, "FOLDER", tmp_path)
    return tmp_path


@pytest.fixture
def holder() -> Iterator[subprocess.Popen[str]]:
    """Another client's process, which has a segment."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True
    )
    yield process
    process.kill()
    process.communicate(timeout=20)


def test_the_segment_of_a_killed_client_is_removed_and_no_other(
    holder: subprocess.Popen[str],
) -> None:
    assert holder.stdout is not None
    theirs = Path(holder.stdout.readline().strip())
    mine = FrameSegment(4096)
    segment_owner.sweep()
    assert theirs.exists()
    holder.kill()
    os.waitid(os.P_PID, holder.pid, os.WEXITED | os.WNOWAIT)  # a zombie, which nobody waited for
    segment_owner.sweep()
    assert not theirs.exists()
    assert mine._path.exists()
    mine.close()
    mine.close()
    assert not mine._path.exists()


def test_an_id_that_another_process_has_now_doesnt_count(folder: Path) -> None:
    name = segment_owner.new_name()
    before = re.sub(r"(edge-agent-\d+-\d+-)\d+", r"\g<1>1", name)
    assert before != name
    for each in (name, before):
        (folder / each).touch()
    segment_owner.sweep()
    assert [file.name for file in folder.iterdir()] == [name]


@pytest.mark.parametrize(
    "name",
    [
        "edge-agent-{other}-4194000-1-" + "0" * 32,  # of another PID namespace
        "edge-agent-" + "0" * 32, "edge-agent-journal-0123", "gstreamer-lookoutvision-bitmap",
        "edge-agent-{mine}-4194000-1-frames", "edge-agent-{mine}-0-1-" + "0" * 32,
        "edge-agent-{mine}-" + "9" * 30 + "-1-" + "0" * 32,
    ],
)  # fmt: skip
def test_what_may_be_anothers_stays(folder: Path, name: str) -> None:
    mine = Path("/proc/self/ns/pid").stat().st_ino
    file = folder / name.format(mine=mine, other=mine + 1)
    file.touch()
    segment_owner.sweep()
    assert file.exists()


def test_where_proc_shows_another_namespace_nothing_is_swept_and_names_have_no_owner(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "self").symlink_to("1")
    name = segment_owner.new_name()
    (folder / re.sub(r"(edge-agent-\d+-\d+-)\d+", r"\g<1>1", name)).touch()
    monkeypatch.setattr(segment_owner, "PROC", tmp_path)
    segment_owner.sweep()
    assert len(list(folder.glob("edge-agent-*"))) == 1
    assert re.fullmatch("edge-agent-[0-9a-f]{32}", segment_owner.new_name())
