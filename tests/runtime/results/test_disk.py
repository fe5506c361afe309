"""Disks that are full, read-only or damaged: results go on, and what is lost is said."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator

import pytest

from edge_agent.runtime.results.spool import pending
from edge_agent.runtime.results.spool.database import Dropped
from tests.runtime.results.conftest import journals
from tests.runtime.results.outboxes import (
    CommandedSink,
    Delivering,
    Drops,
    make,
    open_outbox,
    wait_until,
)
from tests.runtime.results.test_outbox import everything, wait_for


@contextmanager
def small_disk(folder: Path, options: str) -> Iterator[Path]:
    folder.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], stderr=-3
    ).returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        yield folder
    finally:
        for journal in journals(folder):
            shutil.rmtree(journal)
        subprocess.run(["umount", "-l", str(folder)], check=True)


def arrives(message: object) -> None:
    """Everything arrives."""


def test_a_full_disk_costs_nothing_while_a_sink_takes_results(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "size=1m") as disk:
        sink = CommandedSink(arrives)
        with Delivering(disk, sink) as delivering:
            delivering.outbox.offer(make())
            sink.wait_for(lambda: len(sink.arrived) == 1)
            (disk / "filler").write_bytes(b"x" * (disk_free(disk) - 4096))
            events = [make(size=1000) for _ in range(500)]
            for event in events:
                delivering.outbox.offer(event)
            sink.wait_for(lambda: len(sink.arrived) >= 501)
            assert "can't store" in delivering.outbox.problem
            assert "full" in delivering.outbox.problem

            (disk / "filler").unlink()
            delivering.outbox.offer(make())
            wait_until(lambda: not delivering.outbox.problem)
            sink.wait_for(lambda: len(sink.arrived) >= 502)

        assert sink.ids()[1:501] == [event.id for event in events]
        assert len(set(sink.ids())) == len(sink.ids()) == 502


def disk_free(disk: Path) -> int:
    facts = os.statvfs(disk)
    return facts.f_bavail * facts.f_frsize


def test_what_doesnt_fit_into_memory_while_the_disk_refuses_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pending, "LIMIT_BYTES", 100_000)
    with small_disk(tmp_path / "disk", "size=1m") as disk:
        drops = Drops()
        outbox = open_outbox(disk, drops)
        (disk / "filler").write_bytes(b"x" * (disk_free(disk) - 4096))
        offered = [make(anomalous=n % 20 == 0, size=1000) for n in range(400)]
        for event in offered:
            outbox.offer(event)
        wait_until(lambda: bool(outbox.problem) and bool(drops.total))
        (disk / "filler").unlink()
        wait_until(lambda: not outbox.problem)
        left = everything(outbox)
        outbox.close(5)

    ids = {entry.id for entry in left}
    assert drops.total == Dropped(normal=400 - len(left))
    assert all(event.id in ids for event in offered if event.verdict == "anomaly")
    assert drops.reasons == {"memory full while the disk fails"}


def test_a_read_only_disk_is_said_and_results_are_sent_from_memory(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with small_disk(tmp_path / "disk", "size=1m,ro") as disk:
        sink = CommandedSink(arrives)
        with caplog.at_level(logging.ERROR), Delivering(disk / "outbox", sink) as delivering:
            for _ in range(20):
                delivering.outbox.offer(make())
            sink.wait_for(lambda: len(sink.arrived) == 20)

            subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
            delivering.outbox.offer(make())
            wait_until(lambda: not delivering.outbox.problem)
            sink.wait_for(lambda: len(sink.arrived) == 21)
            numbers = [body["sequence"] for body in sink.bodies()]

        outbox = open_outbox(disk / "outbox")
        outbox.offer(make())
        assert wait_for(outbox, 1)[0].sequence == numbers[-1] + 1
        outbox.close(5)

    assert numbers == list(range(numbers[0], numbers[0] + 21))
    assert f"The outbox in {disk}/outbox can't be opened: Read-only file system." in caplog.text
    assert "Set results.folder to a disk that isn't mounted read-only." in caplog.text
    assert "Errno" not in caplog.text


@pytest.mark.parametrize("place", ["/proc/outbox", "{}/file", "{}/file/outbox"])
def test_a_place_that_can_be_no_folder_gets_advice_that_fits(
    place: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    with Delivering(Path(place.format(tmp_path)), CommandedSink(arrives)) as delivering:
        delivering.outbox.offer(make())
        wait_until(lambda: "Results stay in memory" in caplog.text)
    assert "Set results.folder to a folder, or to a place where one can be made." in caplog.text


@pytest.mark.parametrize(
    "damage", ["zeros in the middle", "not a database", "cut in half", "empty"]
)
def test_a_damaged_store_is_put_aside_and_what_can_be_read_is_kept(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    outbox = open_outbox(tmp_path)
    for _ in range(2000):
        outbox.offer(make(size=500))
    before = wait_for(outbox, 2000)
    outbox.close(5)
    file = tmp_path / "outbox.db"
    content = bytearray(file.read_bytes())
    half = len(content) // 2
    if damage == "zeros in the middle":
        content[half : half + 8192] = bytes(8192)
    elif damage == "not a database":
        content[:100] = b"?" * 100
    else:
        del content[half if damage == "cut in half" else 0 :]
    file.write_bytes(content)

    with caplog.at_level(logging.ERROR):
        outbox = open_outbox(tmp_path)
    saved = everything(outbox)
    outbox.offer(make())
    last = wait_for(outbox, len(saved) + 1)[-1]
    outbox.close(5)

    assert {entry.id for entry in saved} <= {entry.id for entry in before}
    assert last.sequence > before[-1].sequence  # no number is given twice
    assert (tmp_path / "outbox.db.damaged-1").exists()
    assert f"{len(saved)} waiting events could be read" in caplog.text
    if damage == "zeros in the middle":
        assert len(saved) > 1800


def test_a_store_that_is_damaged_while_it_is_used_is_replaced(tmp_path: Path) -> None:
    sink = CommandedSink(arrives)
    with Delivering(tmp_path, sink) as delivering:
        for _ in range(50):
            delivering.outbox.offer(make(size=3000))
        sink.wait_for(lambda: len(sink.arrived) == 50)
        content = (tmp_path / "outbox.db").read_bytes()
        for name in ("outbox.db", "outbox.db-wal"):
            with (tmp_path / name).open("r+b") as file:
                file.write(b"\xff" * max(len(content), (tmp_path / name).stat().st_size))
        events = [make(size=3000) for _ in range(200)]
        for event in events:
            delivering.outbox.offer(event)
        sink.wait_for(lambda: {event.id for event in events} <= set(sink.ids()))

    outbox = open_outbox(tmp_path)
    outbox.offer(make())
    assert wait_for(outbox, 1)
    outbox.close(5)


def test_what_waits_on_a_disk_that_comes_late_is_delivered(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "size=4m") as disk:
        outbox = open_outbox(disk / "outbox")
        events = [make() for _ in range(100)]
        for event in events:
            outbox.offer(event)
        wait_for(outbox, 100)
        outbox.close(5)
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)

        sink = CommandedSink(arrives)
        with Delivering(disk / "outbox", sink) as delivering:
            assert delivering.outbox.problem
            new = make()
            delivering.outbox.offer(new)
            sink.wait_for(lambda: new.id in sink.ids())
            subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
            sink.wait_for(lambda: {event.id for event in events} <= set(sink.ids()))
            wait_until(lambda: delivering.outbox.waiting(sink.name) == 0)

    assert [id_ for id_ in sink.ids() if id_ != new.id] == [event.id for event in events]


def test_a_damaged_store_on_a_full_disk_is_mended_when_there_is_room(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "size=8m") as disk:
        outbox = open_outbox(disk)
        events = [make() for _ in range(1500)]
        for event in events:
            outbox.offer(event)
        wait_for(outbox, 1500)
        outbox.close(5)
        content = bytearray((disk / "outbox.db").read_bytes())
        half = len(content) // 2
        content[half : half + 8192] = bytes(8192)
        (disk / "outbox.db").write_bytes(content)
        (disk / "filler").write_bytes(b"x" * disk_free(disk))

        outbox = open_outbox(disk)
        for _ in range(5):
            outbox.offer(make())
            time.sleep(0.05)
        assert outbox.problem
        assert not list(disk.glob("*.damaged-*"))
        (disk / "filler").unlink()
        wait_until(lambda: not outbox.problem)
        assert len(list(disk.glob("outbox.db.damaged-?"))) == 1
        assert len(everything(outbox)) > 500
        outbox.close(5)


def test_numbers_that_were_sent_from_memory_are_not_given_again(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "size=1m") as disk:
        sink = CommandedSink(arrives)
        for _ in range(2):
            with Delivering(disk, sink) as delivering:
                (disk / "filler").write_bytes(b"x" * disk_free(disk))
                before = len(sink.arrived)
                for _ in range(300):
                    delivering.outbox.offer(make(size=2000))
                sink.wait_for(lambda: len(sink.arrived) >= before + 300)  # noqa: B023
                assert delivering.outbox.problem

    numbers = [body["sequence"] for body in sink.bodies()]
    assert len(set(numbers)) == len(numbers) == 600
    assert numbers == sorted(numbers)
