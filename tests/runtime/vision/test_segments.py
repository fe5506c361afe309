"""A name of shared memory stands for what lies behind it at the time of the call."""

from __future__ import annotations

import os
import uuid
from pathlib import Path
from typing import Callable, Dict, Iterator

import numpy as np
import pytest

from edge_agent.errors import InvalidFrame
from edge_agent.runtime.vision.segments import FOLDER, Segments
from edge_agent.types import SharedMemoryHandle

BYTES = 3 * os.sysconf("SC_PAGE_SIZE")


@pytest.fixture(name="path")
def fixture_path() -> Iterator[Path]:
    path = Path(FOLDER) / f"edge-agent-test-{uuid.uuid4().hex}"
    try:
        yield path
    finally:
        for one in path.parent.glob(f"{path.name}*"):
            one.unlink()


def fill(path: Path, value: int) -> None:
    path.write_bytes(bytes([value]) * BYTES)


def aside(path: Path) -> Path:
    return path.with_name(f"{path.name}-aside")


def renamed_over(path: Path) -> None:
    fill(aside(path), 2)
    aside(path).rename(path)


def linked_and_made_anew(path: Path) -> None:
    os.link(str(path), str(aside(path)))
    path.unlink()
    fill(path, 2)


def renamed_and_made_anew(path: Path) -> None:
    path.rename(aside(path))
    fill(path, 2)


def made_anew(path: Path) -> None:
    path.unlink()
    fill(path, 2)


CHANGES: Dict[str, Callable[[Path], None]] = {
    change.__name__: change
    for change in (made_anew, renamed_and_made_anew, renamed_over, linked_and_made_anew)
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("writable", [False, True])
def test_another_object_of_the_same_name_and_size_is_seen(
    path: Path, change: str, writable: bool
) -> None:
    segments, handle = Segments(), SharedMemoryHandle(path.name, BYTES)
    fill(path, 1)
    first = segments.open(handle, writable)
    assert first.part(handle).max() == 1
    assert segments.open(handle, writable) is first
    CHANGES[change](path)
    assert segments.open(handle, writable).part(handle).min() == 2
    assert first.part(handle).max() == 1  # who has it goes on with it


def test_a_segment_that_has_gone_is_not_found(path: Path) -> None:
    segments, handle = Segments(), SharedMemoryHandle(path.name, BYTES)
    fill(path, 1)
    segments.open(handle, writable=False)
    path.rename(aside(path))
    with pytest.raises(InvalidFrame, match="doesn't exist"):
        segments.open(handle, writable=False)


def test_a_segment_cut_short_while_it_was_read_is_mapped_anew(path: Path) -> None:
    segments, handle = Segments(), SharedMemoryHandle(path.name, BYTES)
    fill(path, 1)
    cut = segments.open(handle, writable=False)
    os.truncate(str(path), 0)
    assert not cut.part(handle).any()  # nothing is there any more, and nobody dies of it
    with path.open("r+b") as file:
        file.write(bytes([2]) * BYTES)
    with pytest.raises(InvalidFrame, match="truncated"):
        cut.check()
    again = segments.open(handle, writable=False)
    assert np.all(again.part(handle) == 2)
    again.check()
