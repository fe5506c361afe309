"""Shared memory that is not what it should be, or changes while it is used."""

from __future__ import annotations

import os
import socket
import threading
import uuid
from pathlib import Path
from typing import Any, Callable, Dict, List, Set

import grpc
import pytest

from tests.contract.calls import (
    FOLDER,
    INVALID_ARGUMENT,
    Caller,
    Segment,
    defective,
    plain,
    refused,
    until,
)
from tests.contract.generations import LAST
from tests.fakes import micro
from tests.fakes.agent import Agent

FRAME_BYTES = 64 * 64 * 3


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))


IMPOSTORS: Dict[str, Callable[[Path], Any]] = {
    "directory": lambda path: path.mkdir(),
    "socket": make_socket,
    "fifo": lambda path: os.mkfifo(str(path)),
    "link to a file": lambda path: path.symlink_to("/etc/passwd"),
    "link to itself": lambda path: path.symlink_to(path),
    "link to a device": lambda path: path.symlink_to("/dev/zero"),
    "dangling link": lambda path: path.symlink_to("/nowhere"),
}


@pytest.mark.parametrize("kind", IMPOSTORS)
@pytest.mark.parametrize("use", ["frame", "mask"])
def test_what_is_no_segment_is_refused_by_name(caller: Caller, kind: str, use: str) -> None:
    path = FOLDER / f"edge-agent-test-{uuid.uuid4().hex}"
    IMPOSTORS[kind](path)
    try:
        handle = LAST.SharedMemoryHandle(name=path.name, size=FRAME_BYTES)
        bitmap = LAST.Bitmap(width=64, height=64, shared_memory_handle=handle)
        arguments = (bitmap, None) if use == "frame" else (plain(255), handle)
        details = refused(INVALID_ARGUMENT, caller.detect, "seg", *arguments)
        assert path.name in details
        assert "shared memory object" in details
        assert os.path.lexists(str(path))
    finally:
        path.rmdir() if kind == "directory" else path.unlink()


@pytest.mark.parametrize("left", [0, 1, 4096, FRAME_BYTES - 1])
def test_a_segment_that_was_truncated_since_the_last_call_is_refused(
    caller: Caller, left: int
) -> None:
    frame = plain(255)
    with Segment(FRAME_BYTES) as segment:
        segment.write(frame)
        bitmap = caller.shared(frame, segment)
        assert caller.detect("cls", bitmap).is_anomalous
        segment.resize(left)
        assert f"{left} bytes" in refused(INVALID_ARGUMENT, caller.detect, "cls", bitmap)
        segment.resize(FRAME_BYTES)
        segment.write(frame)
        assert caller.detect("cls", bitmap).is_anomalous


def test_a_segment_that_vanished_since_the_last_call_is_refused(caller: Caller) -> None:
    frame = plain(255)
    with Segment(FRAME_BYTES) as segment:
        segment.write(frame)
        bitmap = caller.shared(frame, segment)
        assert caller.detect("cls", bitmap).is_anomalous
        segment.path.unlink()
        assert "doesn't exist" in refused(INVALID_ARGUMENT, caller.detect, "cls", bitmap)


@pytest.mark.parametrize("use", ["frame", "mask", "both"])
def test_segments_truncated_again_and_again_during_calls_cannot_hurt(
    agent: Agent, caller: Caller, use: str
) -> None:
    """Reading or writing beyond a file's end is SIGBUS, which would end the agent."""
    frame = defective(640, 480)
    done = threading.Event()
    seen: Set[str] = set()
    with Segment(2 * frame.nbytes) as segment:

        def truncate() -> None:
            while not done.is_set():
                segment.resize(0)
                segment.resize(2 * frame.nbytes)

        cutter = threading.Thread(target=truncate)
        cutter.start()
        try:
            bitmap = frame if use == "mask" else caller.shared(frame, segment)
            mask = segment.handle(LAST, frame.nbytes, frame.nbytes) if use != "frame" else None
            for _ in range(300):
                try:
                    caller.detect("seg", bitmap, mask)
                    seen.add("OK")
                except grpc.RpcError as error:
                    seen.add(error.code().name)
        finally:
            done.set()
            cutter.join()
    assert seen <= {"OK", "INVALID_ARGUMENT"}
    assert "INVALID_ARGUMENT" in seen


def test_a_call_beside_a_truncated_one_gets_its_own_answer(agent: Agent, caller: Caller) -> None:
    """Frames of several callers share a batch."""
    frame = defective(320, 240)
    expected = caller.detect("seg", frame)
    done = threading.Event()
    with Segment(frame.nbytes) as cut, agent.channel() as other:
        evil = Caller(other)

        def disturb() -> None:
            while not done.is_set():
                cut.resize(0)
                cut.resize(frame.nbytes)
                evil.stub.DetectAnomalies.future(
                    LAST.DetectAnomaliesRequest(
                        model_component="seg", bitmap=evil.shared(frame, cut)
                    )
                ).code()

        cutter = threading.Thread(target=disturb)
        cutter.start()
        try:
            assert all(caller.detect("seg", frame) == expected for _ in range(150))
        finally:
            done.set()
            cutter.join()


def test_masks_of_several_callers_stay_in_their_own_parts(agent: Agent) -> None:
    """One segment, a part for each of four callers, a guard strip between them."""
    strip, count = 4096, 4
    size = FRAME_BYTES + strip
    frames = [plain(255 if index % 2 else 0, blue=200) for index in range(count)]
    with Segment(count * size) as segment, agent.channel() as channel:
        caller = Caller(channel)
        segment.write(b"\xaa" * (count * size))
        expected = [caller.detect("seg", frame).anomaly_mask.byte_data for frame in frames]

        def judge(index: int) -> None:
            handle = segment.handle(LAST, FRAME_BYTES, index * size)
            for _ in range(30):
                caller.detect("seg", frames[index], handle)

        threads = [threading.Thread(target=judge, args=(index,)) for index in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        written = segment.read()
    for index in range(count):
        part = written[index * size : (index + 1) * size]
        assert part == expected[index] + b"\xaa" * strip


def test_callers_segments_outlive_the_agent(tmp_path: Path) -> None:
    """Not even at its exit does it unlink what it did not make."""
    agent = Agent(tmp_path)
    micro.write(agent.models / "seg", "segmentation")
    frame = defective()
    with Segment(2 * FRAME_BYTES) as segment:
        with agent, agent.channel() as channel:
            agent.run("seg")
            caller = Caller(channel)
            segment.write(frame)
            handle = segment.handle(LAST, FRAME_BYTES, FRAME_BYTES)
            caller.detect("seg", caller.shared(frame, segment), handle)
            assert agent.stop() == 0
        assert segment.path.exists()
        assert segment.read()[:FRAME_BYTES] == frame.tobytes()


def test_mappings_of_segments_nobody_uses_are_let_go(agent: Agent, caller: Caller) -> None:
    """An unlinked segment keeps its memory for as long as the agent has it mapped."""
    assert agent.process is not None
    maps = Path(f"/proc/{agent.process.pid}/maps")
    frame = plain(255)
    names: List[str] = []
    for _ in range(10):
        with Segment(FRAME_BYTES) as segment:
            segment.write(frame)
            caller.detect("cls", caller.shared(frame, segment))
            names.append(segment.name)
    until(lambda: not any(name in maps.read_text() for name in names), within_s=9)
