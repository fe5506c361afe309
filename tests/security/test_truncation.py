"""A client changes its segments in a tight loop while the agent reads frames and writes masks.

`tests/faults/test_segments.py` has the plain truncation; these do it in every way at once, from
processes of their own, beside a camera that must always get its own, right answer.
"""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import time
import uuid
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, Set

import pytest

from tests.contract.calls import FOLDER, Caller, Segment, defective, plain
from tests.contract.generations import LAST
from tests.fakes.agent import Agent

ATTACK_S = 0.5
WIDTH, HEIGHT = 640, 480
FRAME_BYTES = WIDTH * HEIGHT * 3
PAGE = os.sysconf("SC_PAGE_SIZE")
ALLOWED = {"OK", "INVALID_ARGUMENT"}


def whole(path: Path) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    os.ftruncate(descriptor, 2 * FRAME_BYTES)
    return descriptor


def to_nothing(path: Path, number: int) -> None:
    descriptor = whole(path)
    os.ftruncate(descriptor, 0)
    os.ftruncate(descriptor, 2 * FRAME_BYTES)
    os.close(descriptor)


def to_one_page(path: Path, number: int) -> None:
    descriptor = whole(path)
    os.ftruncate(descriptor, PAGE)
    os.ftruncate(descriptor, 2 * FRAME_BYTES)
    os.close(descriptor)


def to_any_size(path: Path, number: int) -> None:
    descriptor = whole(path)
    os.ftruncate(descriptor, number * 7919 % (2 * FRAME_BYTES))
    os.ftruncate(descriptor, 2 * FRAME_BYTES)
    os.close(descriptor)


def larger_and_smaller(path: Path, number: int) -> None:
    descriptor = whole(path)
    os.ftruncate(descriptor, 64 * FRAME_BYTES)
    os.ftruncate(descriptor, FRAME_BYTES + PAGE)
    os.close(descriptor)


def with_holes(path: Path, number: int) -> None:
    """Pages go and come back as zeros; the size stays."""
    descriptor = whole(path)
    keep_size_and_punch = 0x1 | 0x2
    offset = ctypes.c_long(number * PAGE % FRAME_BYTES)
    length = ctypes.c_long(64 * PAGE)
    ctypes.CDLL(None).fallocate(descriptor, keep_size_and_punch, offset, length)
    os.close(descriptor)


def unlinked(path: Path, number: int) -> None:
    path.unlink()
    os.close(whole(path))


def replaced(path: Path, number: int) -> None:
    """By a shorter one, by a longer one, by rename."""
    other = path.with_name(f"{path.name}-other")
    descriptor = whole(other)
    os.ftruncate(descriptor, (PAGE, 2 * FRAME_BYTES, 0, FRAME_BYTES)[number % 4])
    os.close(descriptor)
    other.rename(path)


def replaced_by_a_link(path: Path, number: int) -> None:
    other = path.with_name(f"{path.name}-other")
    if number % 2:
        other.symlink_to("/dev/zero")
    else:
        os.close(whole(other))
    other.rename(path)


def of_another_mode(path: Path, number: int) -> None:
    path.chmod((0o000, 0o400, 0o666)[number % 3])
    os.close(whole(path))


ATTACKS: Dict[str, Callable[[Path, int], None]] = {
    attack.__name__: attack
    for attack in (
        to_nothing, to_one_page, to_any_size, larger_and_smaller, with_holes, unlinked, replaced,
        replaced_by_a_link, of_another_mode,
    )
}  # fmt: skip


def again_and_again(attack: Callable[[Path, int], None], path: Path, started: Any) -> None:
    number = 0
    started.set()
    while True:
        with contextlib.suppress(OSError):
            attack(path, number)
        number += 1


@pytest.fixture
def path() -> Iterator[Path]:
    path = FOLDER / f"edge-agent-test-{uuid.uuid4().hex}"
    os.close(whole(path))
    yield path
    for one in FOLDER.glob(f"{path.name}*"):
        one.unlink()


def evil_call(caller: Caller, name: str, use: str) -> Any:
    """A call whose frame, mask or both lie in the segment `name`."""
    if use == "mask":
        bitmap = caller.bitmap(plain(255, WIDTH, HEIGHT))
    else:
        handle = LAST.SharedMemoryHandle(name=name, size=FRAME_BYTES)
        bitmap = LAST.Bitmap(width=WIDTH, height=HEIGHT, shared_memory_handle=handle)
    request = LAST.DetectAnomaliesRequest(model_component="seg", bitmap=bitmap)
    if use != "frame":
        mask = LAST.SharedMemoryHandle(name=name, size=FRAME_BYTES, offset=FRAME_BYTES)
        request.anomaly_mask_params.shared_memory_handle.CopyFrom(mask)
    return caller.stub.DetectAnomalies.future(request, timeout=30)


@pytest.mark.parametrize("kind", ATTACKS)
def test_the_agent_lives_and_the_camera_beside_is_always_right(
    agent: Agent, path: Path, kind: str
) -> None:
    spawn = multiprocessing.get_context("spawn")
    started = spawn.Event()
    attacker = spawn.Process(target=again_and_again, args=(ATTACKS[kind], path, started))
    attacker.start()
    mine = defective(WIDTH, HEIGHT)
    seen: Set[str] = set()
    with agent.channel() as good, agent.channel() as evil, Segment(2 * FRAME_BYTES) as segment:
        camera, other = Caller(good), Caller(evil)
        expected = camera.detect("seg", mine)
        segment.write(mine)
        place = segment.handle(LAST, FRAME_BYTES, FRAME_BYTES)
        try:
            assert started.wait(60)
            end = time.monotonic() + ATTACK_S
            while time.monotonic() < end:
                calls = [evil_call(other, path.name, use) for use in ("frame", "mask", "both")]
                result = camera.detect("seg", camera.shared(mine, segment), place)
                assert result.anomalies == expected.anomalies
                assert segment.read()[FRAME_BYTES:] == expected.anomaly_mask.byte_data
                seen.update(call.code().name for call in calls)
        finally:
            attacker.kill()
            attacker.join()
    assert seen <= ALLOWED
    assert agent.process is not None
    assert agent.process.poll() is None
