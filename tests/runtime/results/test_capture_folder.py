"""What the folder of captures holds: whole captures only, and no more than its quota."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import List, Set

import cv2
import pytest

from edge_agent.runtime.results.captures.captured_frame import (
    ANOMALY,
    CAMERA_PROBLEM,
    NEAR_THRESHOLD,
    SAMPLE,
)
from edge_agent.runtime.results.captures.folder import CaptureFolder, delete
from edge_agent.runtime.results.captures.manifest import CaptureManifest
from tests import ROOT
from tests.runtime.results.shots import capturing, picture, shot, until

KIB = 1024


def add(folder: CaptureFolder, number: int, reason: str, size: int = 10 * KIB) -> bool:
    taken = shot(number, reason)
    image, drawn = taken.stem + ".png", taken.stem + ".overlay.jpg"
    return folder.add(taken.line(image, drawn, None), {drawn: b"o" * 100, image: b"i" * size})


def opened(path: Path, quota_bytes: int = 60 * KIB) -> CaptureFolder:
    folder = CaptureFolder(path, quota_bytes)
    folder.open()
    return folder


def there(path: Path) -> List[int]:
    """Numbers of the captures whose image is in the folder."""
    return sorted(int(file.stem[-4:]) for file in path.glob("*/*.png"))


def named(path: Path) -> List[int]:
    """Numbers of the captures that the manifest names."""
    return [int(line["edge-agent"]["id"]) for line in CaptureManifest(path).captures()]


def total(path: Path) -> int:
    files = [*path.glob("*/*.png"), *path.glob("*/*.jpg"), path / "manifest.jsonl"]
    return sum(file.stat().st_size for file in files)


def test_samples_go_before_near_misses_and_those_before_anomalies(tmp_path: Path) -> None:
    folder = opened(tmp_path)
    for number, reason in enumerate(
        [ANOMALY, NEAR_THRESHOLD, SAMPLE, CAMERA_PROBLEM, SAMPLE], start=1
    ):
        assert add(folder, number, reason)
    order: List[Set[int]] = []
    for number in range(6, 12):
        before = set(there(tmp_path))
        assert add(folder, number, ANOMALY)
        order.append(before - set(there(tmp_path)))
        assert total(tmp_path) <= 60 * KIB
    assert order == [{3}, {5}, {2}, {4}, {1}, {6}]
    folder.close()
    assert named(tmp_path) == there(tmp_path)


def test_a_sample_does_not_push_out_an_anomaly(tmp_path: Path) -> None:
    folder = opened(tmp_path, 24 * KIB)
    assert add(folder, 1, ANOMALY)
    assert add(folder, 2, SAMPLE)
    assert not add(folder, 3, SAMPLE, size=20 * KIB)
    assert there(tmp_path) == [1, 2]
    assert add(folder, 4, SAMPLE)
    assert there(tmp_path) == [1, 4]


def test_what_is_larger_than_the_quota_is_refused_and_costs_nothing(tmp_path: Path) -> None:
    folder = opened(tmp_path, 24 * KIB)
    assert add(folder, 1, SAMPLE)
    assert not add(folder, 2, ANOMALY, size=30 * KIB)
    assert there(tmp_path) == [1]


def test_the_quota_counts_what_an_earlier_run_left(tmp_path: Path) -> None:
    folder = opened(tmp_path)
    for number in range(1, 6):
        add(folder, number, ANOMALY)
    again = opened(tmp_path, 36 * KIB)
    assert add(again, 6, ANOMALY)
    assert there(tmp_path) == [4, 5, 6]
    assert named(opened(tmp_path).path) == [4, 5, 6]


def test_files_that_no_line_names_are_counted_and_go_first(tmp_path: Path) -> None:
    (tmp_path / "2026-11-20").mkdir()
    orphan = tmp_path / "2026-11-20" / "bolts-0009.png"
    orphan.write_bytes(b"i" * 10 * KIB)
    folder = opened(tmp_path, 24 * KIB)
    add(folder, 1, SAMPLE)
    assert orphan.exists()
    assert add(folder, 2, SAMPLE)
    assert not orphan.parent.exists()
    assert there(tmp_path) == [1, 2]


def test_files_that_cannot_be_ours_are_never_touched(tmp_path: Path) -> None:
    others = [
        tmp_path / "notes.txt",
        tmp_path / "masks" / "a.png",
        tmp_path / "2026-11-20" / "x.db",
    ]
    for file in others:
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(b"o" * 50 * KIB)
    line = shot(1).line("../secret.png", "/etc/passwd", None)
    (tmp_path / "manifest.jsonl").write_text(json.dumps(line) + "\n")
    folder = opened(tmp_path, 12 * KIB)
    for number in range(1, 5):
        assert add(folder, number, SAMPLE)
    assert all(file.exists() for file in others)
    assert "../secret.png" in (tmp_path / "manifest.jsonl").read_text()


def test_labels_that_people_corrected_stay_when_lines_are_dropped(tmp_path: Path) -> None:
    folder = opened(tmp_path)
    for number in range(1, 6):
        add(folder, number, ANOMALY)
    manifest = tmp_path / "manifest.jsonl"
    foreign = '{"source-ref": "s3://bucket/a.png"}\nnot JSON\n'
    edited = manifest.read_text().replace('"class-name": "anomaly"', '"class-name": "normal"')
    manifest.write_text(foreign + edited)
    for number in range(6, 9):
        add(folder, number, ANOMALY)
    folder.close()
    assert manifest.read_text().startswith(foreign)
    labels = {
        line["edge-agent"]["id"]: line["anomaly-label-metadata"]["class-name"]
        for line in CaptureManifest(tmp_path).captures()
    }
    assert labels == {
        "0004": "normal", "0005": "normal",
        "0006": "anomaly", "0007": "anomaly", "0008": "anomaly",
    }  # fmt: skip


def test_a_second_line_about_a_capture_is_kept_as_long_as_the_capture(tmp_path: Path) -> None:
    folder = opened(tmp_path)
    add(folder, 1, ANOMALY)
    with (tmp_path / "manifest.jsonl").open("a") as file:
        file.write((tmp_path / "manifest.jsonl").read_text().replace('"no"', '"yes"'))
    again = opened(tmp_path, 24 * KIB)
    assert named(tmp_path) == [1, 1]
    assert add(again, 2, ANOMALY)
    assert there(tmp_path) == [1, 2]
    assert add(again, 3, ANOMALY)
    again.close()
    assert named(tmp_path) == there(tmp_path) == [2, 3]


def test_what_others_took_away_makes_room(tmp_path: Path) -> None:
    folder = opened(tmp_path)
    for number in range(1, 6):
        add(folder, number, SAMPLE)
    manifest = CaptureManifest(tmp_path)
    with manifest.locked():
        gone = [line["source-ref"] for line in manifest.captures()][1:]
        delete(tmp_path, gone)
        manifest.drop(gone)
    for number in range(7, 10):
        assert add(folder, number, SAMPLE)
    assert there(tmp_path) == [1, 7, 8, 9]


def test_the_manifest_is_not_rewritten_for_each_capture_that_goes(tmp_path: Path) -> None:
    folder = opened(tmp_path, 24 * KIB)
    inodes = set()
    for number in range(1, 40):
        add(folder, number, SAMPLE)
        inodes.add((tmp_path / "manifest.jsonl").stat().st_ino)
    assert len(inodes) <= 3
    assert len(named(tmp_path)) < 39


@pytest.mark.parametrize("torn", ['{"source-ref": "2026-11-21/bolts-00', '{"source-ref": "a.png"}'])
def test_a_last_line_cut_short_by_a_power_cut_is_mended(tmp_path: Path, torn: str) -> None:
    folder = opened(tmp_path)
    add(folder, 1, SAMPLE)
    with (tmp_path / "manifest.jsonl").open("a") as file:
        file.write(torn)
    again = opened(tmp_path)
    add(again, 2, SAMPLE)
    lines = [json.loads(line) for line in (tmp_path / "manifest.jsonl").read_text().splitlines()]
    assert [line["source-ref"][-8:] for line in lines if line["source-ref"] != "a.png"] == [
        "0001.png", "0002.png",
    ]  # fmt: skip


ENDLESS = """
import sys
from pathlib import Path
from tests.runtime.results.shots import capturing, picture, shot, until
image = picture(1, 700, 900)
with capturing(Path(sys.argv[1])) as capture:
    for number in range(10**6):
        capture.enqueue(shot(number, pixels=image))
        until(lambda: capture.stored >= number - 2)
"""


def test_killed_while_writing_leaves_no_half_capture(tmp_path: Path) -> None:
    workplace = tmp_path / ".new"
    agent = subprocess.Popen([sys.executable, "-c", ENDLESS, str(tmp_path)], cwd=ROOT)
    try:
        while True:
            until(lambda: named_at_least(tmp_path, 3) and any(workplace.iterdir()))
            agent.send_signal(signal.SIGSTOP)
            os.waitid(os.P_PID, agent.pid, os.WSTOPPED | os.WNOWAIT)
            if any(workplace.iterdir()):
                break
            agent.send_signal(signal.SIGCONT)
    finally:
        agent.kill()
        agent.wait()
    with capturing(tmp_path) as capture:
        until(lambda: capture.last("bolts"))
        assert not any(workplace.iterdir())
        assert capture.enqueue(shot(1))
    for line in CaptureManifest(tmp_path).captures():
        for name in (line["source-ref"], line["edge-agent"]["overlay"]):
            assert (tmp_path / name).exists()
    for file in tmp_path.glob("*/*.*g"):
        assert cv2.imread(str(file)) is not None, file


def named_at_least(path: Path, count: int) -> bool:
    return (path / "manifest.jsonl").exists() and len(named(path)) >= count


FULL = """
import resource, sys
from pathlib import Path
from tests.runtime.results.shots import capturing, shot, until
folder, now = Path(sys.argv[1]), [0.0]
with capturing(folder, clock=lambda: now[0]) as capture:
    capture.enqueue(shot(1))
    until(lambda: capture.stored == 1)
    with (folder / "manifest.jsonl").open("a") as file:
        file.write("x" * 40000 + chr(10))
    before = (folder / "manifest.jsonl").read_bytes()
    for limit in (20000, len(before) + 100):  # inside the image; inside the manifest's line
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        failed = capture.failed
        assert capture.enqueue(shot(2))
        until(lambda: capture.failed == failed + 1)
        assert (folder / "manifest.jsonl").read_bytes() == before
        files = [path.name for path in folder.glob("*/*")]
        assert sorted(files) == ["bolts-0001.overlay.jpg", "bolts-0001.png"], files
        now[0] += 61
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
    assert capture.enqueue(shot(3))
assert (capture.stored, capture.failed) == (2, 2)
"""


def test_a_full_disk_leaves_no_trace_and_is_over_when_there_is_room(tmp_path: Path) -> None:
    """A limit on the size of files, which ends a write half way as a full disk does."""
    ended = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path)], cwd=ROOT, timeout=60, capture_output=True
    )
    assert ended.returncode == 0, ended.stderr.decode()
    assert ended.stderr.decode().count("can't be stored in") == 1
    assert picture(3).shape == cv2.imread(str(tmp_path / "2026-11-21/bolts-0003.png")).shape
