"""Callers can't use up the agent's addresses and descriptors with what they make it map."""

from __future__ import annotations

import gc
import os
import resource
import uuid
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Iterator, List

import pytest

from edge_agent.errors import InvalidFrame, OutOfDescriptors, OutOfMemory
from edge_agent.runtime.vision.frame import FrameReader
from edge_agent.runtime.vision.segments import CHUNK_BYTES, MOST_MAPPED_BYTES, Segments
from edge_agent.types import Bitmap, SharedMemoryHandle
from tests.contract.calls import (
    INVALID_ARGUMENT,
    Caller,
    Segment,
    plain,
    refused,
)
from tests.contract.generations import LAST
from tests.fakes.agent import Agent

MIB, GIB, TIB = 1024**2, 1024**3, 1024**4
FRAME = plain(255)
SIZE = FRAME.nbytes


@pytest.fixture
def caller(agent: Agent) -> Iterator[Caller]:
    with agent.channel() as channel:
        yield Caller(channel)
        assert Caller(channel).detect("cls", FRAME).is_anomalous


def address_bytes(agent: Agent) -> int:
    assert agent.process is not None
    pages = Path(f"/proc/{agent.process.pid}/statm").read_text().split()[0]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def mapped(name: str, process: str = "self") -> List[int]:
    """Sizes of the windows of `name` that are mapped."""
    found = []
    for line in Path(f"/proc/{process}/maps").read_text().splitlines():
        if line.endswith(name):
            start, end = line.split()[0].split("-")
            found.append(int(end, 16) - int(start, 16))
    return found


def test_hundreds_of_sparse_tebibytes_take_no_more_than_their_windows(
    agent: Agent, caller: Caller
) -> None:
    """47 bits of address hold 128 of them."""
    before = address_bytes(agent)
    with ExitStack() as stack:
        for number in range(200):
            segment = stack.enter_context(Segment(TIB))
            handle = segment.handle(LAST, SIZE, number * 5 * GIB)
            caller.detect("seg", caller.shared(FRAME, segment, number * GIB), handle)
        assert address_bytes(agent) - before < MOST_MAPPED_BYTES


def test_frames_all_over_a_sparse_tebibyte_stay_within_the_bound(
    agent: Agent, caller: Caller
) -> None:
    before = address_bytes(agent)
    with Segment(TIB) as segment:
        for number in range(1500):
            bitmap = caller.shared(FRAME, segment, number * 650 * MIB + number)
            caller.detect("cls", bitmap)
        assert address_bytes(agent) - before < MOST_MAPPED_BYTES + GIB


@pytest.mark.parametrize("size", [SIZE, 48 * MIB, TIB])
def test_of_a_large_handle_only_what_a_frame_needs_is_mapped(
    agent: Agent, caller: Caller, size: int
) -> None:
    assert agent.process is not None
    with Segment(TIB) as segment:
        handle = segment.handle(LAST, size)
        caller.detect("seg", FRAME, handle)
        if size > SIZE:
            bitmap = LAST.Bitmap(width=64, height=64, shared_memory_handle=handle)
            assert f"{size} bytes" in refused(INVALID_ARGUMENT, caller.detect, "cls", bitmap)
        windows = mapped(segment.name, str(agent.process.pid))
        assert windows
        assert max(windows) <= 48 * MIB


def part(segment: Segment, offset: int, size: int = SIZE) -> SharedMemoryHandle:
    return SharedMemoryHandle(segment.name, size, offset)


def test_a_sparse_tebibyte_that_is_truncated_in_use_ends_no_process() -> None:
    """What takes the place of the mapping is memory of this process, and must be had."""
    segments = Segments()
    with Segment(TIB) as segment:
        handle = part(segment, TIB // 2)
        opened = segments.open(handle, writable=True)
        segment.resize(0)
        opened.part(handle)[...] = 1
        with pytest.raises(InvalidFrame, match="truncated"):
            opened.check()


def test_a_window_in_use_stays_valid_when_others_need_its_room() -> None:
    segments = Segments(most_bytes=2 * CHUNK_BYTES)
    with Segment(8 * CHUNK_BYTES) as segment:
        segment.write(b"\x07" * SIZE)
        handle = part(segment, 0)
        view = segments.open(handle, writable=False).part(handle)
        for number in range(1, 8):
            segments.open(part(segment, number * CHUNK_BYTES), writable=False)
            assert sum(mapped(segment.name)) <= 2 * CHUNK_BYTES
            assert view.min() == view.max() == 7
        del view
        segments.open(part(segment, 0), writable=False)
        assert sum(mapped(segment.name)) <= 2 * CHUNK_BYTES


def test_when_all_that_may_be_mapped_is_in_use_the_next_call_is_refused() -> None:
    segments = Segments(most_bytes=2 * CHUNK_BYTES)
    with Segment(3 * CHUNK_BYTES) as segment:
        used = [
            segments.open(part(segment, number * CHUNK_BYTES), writable=True) for number in range(2)
        ]
        with pytest.raises(OutOfMemory, match="at most 32 MiB"):
            segments.open(part(segment, 2 * CHUNK_BYTES), writable=True)
        used.pop()
        assert segments.open(part(segment, 2 * CHUNK_BYTES), writable=True)
        assert sum(mapped(segment.name)) <= 2 * CHUNK_BYTES


def test_what_was_used_last_is_kept() -> None:
    segments = Segments(most_bytes=4 * CHUNK_BYTES)
    with Segment(10 * CHUNK_BYTES) as segment:
        warm = id(segments.open(part(segment, 0), writable=False))
        for number in range(1, 10):
            segments.open(part(segment, number * CHUNK_BYTES), writable=False)
            assert id(segments.open(part(segment, 0), writable=False)) == warm


def test_a_ring_of_frames_is_mapped_once() -> None:
    """A camera that writes its frames round and round, the masks beside them."""
    size, reader = 640 * 480 * 3, FrameReader()
    with Segment(64 * MIB) as ring:
        offsets = range(0, 64 * MIB - 2 * size, 2 * size)

        def turn() -> None:
            for offset in offsets:
                bitmap = Bitmap(640, 480, None, part(ring, offset, size))
                reader.open(bitmap, part(ring, offset + size, size), is_local=True)

        turn()
        first = mapped(ring.name)
        turn()
        assert mapped(ring.name) == first
        assert len(first) <= 2 * 64 * MIB // CHUNK_BYTES


def test_frame_and_mask_of_one_segment_lie_in_one_mapping() -> None:
    size, reader = 1920 * 1080 * 3, FrameReader()
    with Segment(2 * size) as segment:
        bitmap = Bitmap(1920, 1080, None, part(segment, 0, size))
        opened = reader.open(bitmap, part(segment, size, size), is_local=True)
        assert len(mapped(segment.name)) == 1
        assert opened.mask_target is not None
        opened.mask_target[...] = 9
        assert segment.read() == bytes(size) + b"\x09" * size
        assert not opened.frame.pixels.flags.writeable


def test_windows_of_one_segment_are_guarded_one_by_one() -> None:
    segments = Segments()
    with Segment(4 * CHUNK_BYTES) as segment:
        segment.write(b"\x07" * SIZE)
        near, far = part(segment, 0), part(segment, 3 * CHUNK_BYTES)
        first, second = (segments.open(handle, writable=True) for handle in (near, far))
        segment.resize(CHUNK_BYTES)
        assert not second.part(far).any()
        second.part(far)[...] = 1  # goes nowhere
        with pytest.raises(InvalidFrame, match="truncated"):
            second.check()
        assert first.part(near).min() == 7
        first.check()


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_nothing_stays_mapped_or_open_when_nobody_uses_it() -> None:
    segments, before = Segments(), descriptors()
    with Segment(CHUNK_BYTES) as segment:
        opened = descriptors()
        used = segments.open(part(segment, 0), writable=True)
        assert descriptors() == opened  # a mapping keeps no descriptor
        assert mapped(segment.name)
        del used, segments
        gc.collect()
        assert not mapped(segment.name)
    assert descriptors() == before


@contextmanager
def no_descriptors_left() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_without_descriptors_a_segment_in_use_goes_on_and_a_new_one_is_refused_as_load() -> None:
    segments = Segments()
    with Segment(SIZE) as known, Segment(SIZE) as fresh:
        segments.open(part(known, 0), writable=False)
        with no_descriptors_left():
            segments.open(part(known, 0), writable=False)
            with pytest.raises(OutOfDescriptors, match="too many files and connections"):
                segments.open(part(fresh, 0), writable=False)
        assert segments.open(part(fresh, 0), writable=False)
    assert OutOfDescriptors.status == "RESOURCE_EXHAUSTED"


def test_a_segment_that_cant_be_mapped_counts_for_nothing() -> None:
    segments = Segments(most_bytes=CHUNK_BYTES)
    for _ in range(3):
        with pytest.raises(InvalidFrame):
            segments.open(SharedMemoryHandle(f"edge-agent-test-{uuid.uuid4().hex}", SIZE), True)
    with Segment(CHUNK_BYTES) as segment:
        assert segments.open(part(segment, 0), writable=True)
