"""A frame's way into the folder of captures, and that no call ever notices."""

from __future__ import annotations

import json
import logging
import os
import shutil
import threading
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_agent.evaluation.label_manifest import ALL, LabelManifest
from edge_agent.runtime.results.captures.capture import THREAD_NAME
from edge_agent.runtime.results.captures.captured_frame import CAMERA_PROBLEM, SAMPLE
from edge_agent.runtime.results.captures.manifest import CaptureManifest
from edge_agent.runtime.vision import overlay, picture_files
from edge_agent.types import CameraProblem
from tests.runtime.results.shots import (
    ANOMALOUS,
    NOON,
    capturing,
    mask,
    picture,
    shot,
    until,
    with_problem,
)


def read(path: Path) -> np.ndarray:
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    assert image is not None, path
    return image[..., ::-1]


def lines(folder: Path) -> list:
    return [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]


def test_the_files_of_an_anomaly_are_the_frame_the_mask_and_the_verdict(tmp_path: Path) -> None:
    with capturing(tmp_path) as capture:
        name = capture.enqueue(shot(7, mask=mask()))
    assert name == "2026-11-21/bolts-0007.png"
    assert np.array_equal(read(tmp_path / name), picture(7))
    assert np.array_equal(read(tmp_path / "2026-11-21/bolts-0007.mask.png"), mask())
    drawn = tmp_path / "2026-11-21/bolts-0007.overlay.jpg"
    assert drawn.read_bytes()[:3] == b"\xff\xd8\xff"
    assert np.abs(read(drawn)[1, 1].astype(int) - overlay.ANOMALOUS).max() < 40
    assert (capture.stored, capture.skipped, capture.failed) == (1, 0, 0)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        ".lock", ".new", "2026-11-21", "manifest.jsonl",
    ]  # fmt: skip
    assert not list((tmp_path / ".new").iterdir())


def test_the_line_has_the_keys_of_the_original_manifests(tmp_path: Path) -> None:
    with capturing(tmp_path) as capture:
        capture.enqueue(shot(7, mask=mask()))
    source = {
        "human-annotated": "no",
        "job-name": "edge-agent/bolts/3",
        "creation-date": "2026-11-21T12:00:07.000000",
    }
    assert lines(tmp_path) == [
        {
            "source-ref": "2026-11-21/bolts-0007.png",
            "anomaly-label": 1,
            "anomaly-label-metadata": {
                "class-name": "anomaly",
                "confidence": 0.8,
                "type": "groundtruth/image-classification",
                **source,
            },
            "anomaly-mask-ref": "2026-11-21/bolts-0007.mask.png",
            "anomaly-mask-ref-metadata": {
                "internal-color-map": {
                    "0": {"class-name": "BACKGROUND", "hex-color": "#ffffff", "confidence": 0.0},
                    "1": {"class-name": "scratch", "hex-color": "#23a436", "confidence": 0.0},
                },
                "type": "groundtruth/semantic-segmentation",
                **source,
            },
            "edge-agent": {
                "id": "0007",
                "model": "bolts",
                "version": "3",
                "reason": "anomaly",
                "verdict": "anomaly",
                "score": 0.8,
                "threshold": 0.5,
                "camera": "left",
                "time": NOON + 7,
                "camera-problems": [],
                "overlay": "2026-11-21/bolts-0007.overlay.jpg",
            },
        }
    ]


def test_what_is_written_is_what_the_trainer_reads(tmp_path: Path) -> None:
    dark = with_problem(CameraProblem.DARK)
    with capturing(tmp_path) as capture:
        bad = capture.enqueue(shot(1))
        good = capture.enqueue(shot(2, SAMPLE))
        assert capture.enqueue(shot(3, CAMERA_PROBLEM, prediction=dark))
    read_back = LabelManifest.read(tmp_path / "manifest.jsonl", ALL)
    assert read_back.paths("anomaly") == (tmp_path / bad,)
    assert read_back.paths("normal") == (tmp_path / good,)
    assert read_back.model == "bolts"
    unlabelled, guessed = read_back.remarks
    assert "1 image" in unlabelled
    assert "2 of 2 labels" in guessed


def test_the_mask_of_a_picture_with_a_camera_problem_marks_no_part() -> None:
    assert shot(1, mask=mask()).needs_mask
    dark = replace(ANOMALOUS, camera_problems=(CameraProblem.DARK,))
    assert not shot(1, mask=mask(), prediction=dark).needs_mask


def test_shared_memory_that_changes_after_the_call_does_not_change_the_picture(
    tmp_path: Path,
) -> None:
    pixels, painted = picture(5), mask()
    with capturing(tmp_path) as capture, CaptureManifest(tmp_path).locked():
        name = capture.enqueue(shot(5, pixels=pixels, mask=painted[:], shared=True))
        pixels[:] = 0
        painted[:] = 0
    assert np.array_equal(read(tmp_path / name), picture(5))
    assert np.array_equal(read(tmp_path / name.replace(".png", ".mask.png")), mask())


def test_a_frame_that_came_as_bytes_is_not_copied() -> None:
    pixels = np.frombuffer(picture(1).tobytes(), np.uint8).reshape(96, 128, 3)
    assert shot(1, pixels=pixels).owned().pixels is pixels
    assert shot(1, pixels=pixels, shared=True).owned().pixels is not pixels


def test_a_mask_that_marks_nothing_is_not_kept(tmp_path: Path) -> None:
    white = np.full((96, 128, 3), 255, np.uint8)
    with capturing(tmp_path) as capture:
        capture.enqueue(shot(1, SAMPLE, mask=white))
    assert len(list((tmp_path / "2026-11-21").iterdir())) == 2
    assert "anomaly-mask-ref" not in lines(tmp_path)[0]


def test_rows_padded_as_gstreamer_does_are_kept_without_the_padding(tmp_path: Path) -> None:
    padded = picture(1, 96, 128).reshape(96, 384)
    pixels = padded[:, :381].reshape(96, 127, 3)
    assert not pixels.flags.c_contiguous or pixels.base is not None
    with capturing(tmp_path) as capture:
        name = capture.enqueue(shot(1, pixels=pixels, prediction=with_problem()))
    assert np.array_equal(read(tmp_path / name), pixels)


def test_jpeg_takes_less_room_where_it_is_set(tmp_path: Path) -> None:
    with capturing(tmp_path, format="jpeg") as capture:
        name = capture.enqueue(shot(1))
    assert name.endswith("bolts-0001.jpg")
    assert (tmp_path / name).read_bytes()[:3] == b"\xff\xd8\xff"
    assert read(tmp_path / name).shape == (96, 128, 3)


def test_the_last_capture_of_a_model_is_known_also_after_a_restart(tmp_path: Path) -> None:
    with capturing(tmp_path) as capture:
        assert capture.last("bolts") is None
        for number in (1, 2):
            capture.enqueue(shot(number))
        capture.enqueue(shot(3, model="nuts"))
        until(lambda: capture.stored == 3)
        last = capture.last("bolts")
        assert last is not None
        assert last.line["edge-agent"]["id"] == "0002"
        assert len(picture_files.thumbnail(last.overlay.read_bytes(), 3000)) <= 3000
    with capturing(tmp_path) as again:
        until(lambda: again.last("bolts"))
        assert again.last("bolts") == last
        assert again.last("screws") is None


@pytest.mark.parametrize("limit_bytes", [1000, 5000, 100000])
def test_a_thumbnail_keeps_its_limit_and_its_shape(limit_bytes: int) -> None:
    content = picture_files.thumbnail(picture_files.jpeg(picture(1, 600, 900), 95), limit_bytes)
    assert len(content) <= limit_bytes
    height, width = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR).shape[:2]
    assert width <= 640
    assert abs(height / width - 600 / 900) < 0.1


def test_no_thumbnail_of_nothing_and_none_in_no_room() -> None:
    with pytest.raises(ValueError, match="isn't a picture"):
        picture_files.thumbnail(b"nothing", 1000)
    with pytest.raises(ValueError, match="fits into 10 bytes"):
        picture_files.thumbnail(picture_files.png(picture()), 10)


def test_frames_are_skipped_when_memory_for_waiting_ones_is_full(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    large = np.zeros((4096, 4096, 3), np.uint8)  # 48 MiB; five fit into the queue
    with capturing(tmp_path) as capture:
        with CaptureManifest(tmp_path).locked():  # the writer can't go on
            names = [capture.enqueue(shot(number, pixels=large)) for number in range(8)]
        until(lambda: capture.stored == 5)
        assert capture.enqueue(shot(9))  # there is room again
    assert [bool(name) for name in names] == [True] * 5 + [False] * 3
    assert (capture.stored, capture.skipped, capture.failed) == (6, 3, 0)
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 1  # at most once a minute
    assert "3 frames were not stored" in told[0]


def test_closing_keeps_its_time_and_tells_what_was_dropped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with capturing(tmp_path) as capture:
        until(lambda: (tmp_path / ".new").is_dir())
        with CaptureManifest(tmp_path).locked():
            for number in range(3):
                assert capture.enqueue(shot(number))
            capture.close(0.05)
            assert "not written in time (0.05 s)" in caplog.text
        assert capture.enqueue(shot(9)) == ""
    assert not [thread for thread in threading.enumerate() if thread.name == THREAD_NAME]


def test_a_frame_that_makes_no_sense_fails_no_call(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with capturing(tmp_path) as capture:
        assert capture.enqueue(shot(1, pixels=None)) == ""
        assert capture.enqueue(shot(2, pixels=np.zeros((0, 0, 3), np.uint8)))
        assert capture.enqueue(shot(3))
    assert (capture.stored, capture.failed) == (1, 2)
    assert caplog.text.count("A frame couldn't be stored.") == 2


def test_a_folder_that_cannot_be_written_is_told_once_and_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    now = [0.0]
    place = tmp_path / "captures"
    place.write_text("a file where the folder should be")
    with capturing(place, clock=lambda: now[0]) as capture:
        until(lambda: caplog.records)
        assert [capture.enqueue(shot(number)) for number in range(3)] == [""] * 3
        now[0] += 61
        assert capture.enqueue(shot(4))  # tried again, and fails
        until(lambda: capture.failed == 4)
        place.unlink()
        assert capture.enqueue(shot(5)) == ""
        now[0] += 61
        assert capture.enqueue(shot(6))
        until(lambda: capture.stored == 1)
        assert capture.enqueue(shot(7))
    assert (capture.stored, capture.failed) == (2, 5)
    first, second = (record.getMessage() for record in caplog.records)
    assert "can't be stored in" in first
    assert "tries again every 60 s" in first
    assert "again" in second


def test_a_folder_that_was_removed_is_made_anew(tmp_path: Path) -> None:
    now = [0.0]
    with capturing(tmp_path / "captures", clock=lambda: now[0]) as capture:
        capture.enqueue(shot(1))
        until(lambda: capture.stored == 1)
        shutil.rmtree(tmp_path / "captures")
        capture.enqueue(shot(2))
        until(lambda: capture.failed == 1)
        now[0] += 61
        name = capture.enqueue(shot(3))
    assert np.array_equal(read(tmp_path / "captures" / name), picture(3))


def test_the_writer_leaves_the_processor_to_the_calls(tmp_path: Path) -> None:
    with capturing(tmp_path):
        (writer,) = (thread for thread in threading.enumerate() if thread.name == THREAD_NAME)
        until(lambda: os.getpriority(os.PRIO_PROCESS, writer.native_id or 0) > 0)
    assert os.getpriority(os.PRIO_PROCESS, 0) == 0
