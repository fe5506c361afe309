"""Files that are replaced are there whole, before and after."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import List

import pytest

from edge_agent.runtime.system.files import move, replacing, write_atomically


def names(folder: Path) -> List[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("mode", [0o600, 0o640])
def test_a_new_file_takes_the_place_of_the_old_one(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "file"
    path.write_text("old and longer")
    path.chmod(0o666)
    (tmp_path / "file.new").write_text("left by a run that was killed")

    write_atomically(path, b"new", mode=mode)

    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == mode
    assert names(tmp_path) == ["file"]


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    with pytest.raises(ZeroDivisionError), replacing(path) as file:
        file.write(b"half of the n" * (1 // 0))
    path.unlink()
    path.mkdir()
    with pytest.raises(IsADirectoryError):
        write_atomically(path, b"new")

    assert names(tmp_path) == ["file"]


def test_a_link_in_the_place_of_the_new_file_isnt_written_through(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("mine")
    (tmp_path / "file.new").symlink_to(tmp_path / "victim")

    write_atomically(tmp_path / "file", b"new")

    assert (tmp_path / "victim").read_text() == "mine"
    assert names(tmp_path) == ["file", "victim"]


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> List[bool]:
    """Of each call of fsync: whether it was for a folder."""
    seen: List[bool] = []
    fsync = os.fsync

    def note(file: int) -> None:
        seen.append(stat.S_ISDIR(os.fstat(file).st_mode))
        fsync(file)

    monkeypatch.setattr(os, "fsync", note)
    return seen


def test_the_file_is_on_disk_before_its_name(tmp_path: Path, synced: List[bool]) -> None:
    write_atomically(tmp_path / "file", b"new")
    assert synced == [False, True]

    move(tmp_path / "file", tmp_path / "moved", mode=0o640)
    assert synced == [False, True] * 2
    assert stat.S_IMODE((tmp_path / "moved").stat().st_mode) == 0o640

    write_atomically(tmp_path / "file", b"newer", sync=False)
    assert synced == [False, True] * 2


def test_the_new_file_may_lie_elsewhere_until_it_is_whole(tmp_path: Path) -> None:
    (tmp_path / "workplace").mkdir()
    fresh = tmp_path / "workplace" / "fresh"

    with replacing(tmp_path / "file", fresh=fresh):
        assert fresh.exists()
        assert names(tmp_path) == ["workplace"]

    assert names(tmp_path) == ["file", "workplace"]
    assert names(fresh.parent) == []
