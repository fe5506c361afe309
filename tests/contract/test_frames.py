"""What frames are accepted, by both transports, and what is said to the others."""

from __future__ import annotations

import os
from typing import Any

import cv2
import numpy as np
import pytest

from tests.contract import generations
from tests.contract.calls import INVALID_ARGUMENT, Caller, Segment, plain, refused

PB = generations.LAST


def test_a_classification_has_a_verdict_and_no_mask(send: Any) -> None:
    """Row 18."""
    result = send("cls", plain(204, 640, 480))
    assert result.is_anomalous
    assert result.confidence == pytest.approx(0.8, abs=1e-5)
    assert not result.HasField("anomaly_mask")
    assert len(result.anomalies) == 0


def test_the_same_frame_gives_the_same_answer_a_hundred_times(send: Any) -> None:
    """Row 19."""
    frame = np.random.default_rng(1).integers(0, 256, (480, 640, 3), np.uint8)
    results = [send("cls", frame) for _ in range(100)]
    assert len({result.is_anomalous for result in results}) == 1
    confidences = [result.confidence for result in results]
    assert max(confidences) - min(confidences) <= 1e-6


def test_a_frame_anywhere_in_a_bigger_segment_is_the_same_frame(caller: Caller) -> None:
    """Row 20."""
    frame = np.random.default_rng(2).integers(0, 256, (480, 640, 3), np.uint8)
    expected = caller.detect("cls", frame)
    with Segment(frame.nbytes) as segment, Segment(frame.nbytes + 9999) as bigger:
        segment.write(frame)
        assert caller.detect("cls", caller.shared(frame, segment)) == expected
        for offset in (4096, 1):
            bigger.write(frame, offset)
            assert caller.detect("cls", caller.shared(frame, bigger, offset)) == expected


@pytest.mark.parametrize("slash", ["", "/"])
def test_a_segment_is_named_with_or_without_a_slash(caller: Caller, slash: str) -> None:
    """Row 21."""
    frame = plain(204)
    with Segment(frame.nbytes) as segment:
        segment.write(frame)
        segment.name = slash + segment.name
        assert caller.detect("cls", caller.shared(frame, segment)).is_anomalous


def test_a_segment_made_anew_under_its_name_is_read_anew(caller: Caller) -> None:
    """Row 22."""
    name = ""
    for red, side in ((255, 64), (0, 64), (255, 128), (0, 256), (255, 64)):
        frame = plain(red, side, side)
        with Segment(frame.nbytes, name) as segment:
            name = segment.name
            segment.write(frame)
            assert caller.detect("cls", caller.shared(frame, segment)).is_anomalous is (red > 127)
            assert segment.path.exists()


def test_a_segment_that_grows_and_shrinks_is_read_as_it_is_now(caller: Caller) -> None:
    """Row 22."""
    with Segment(1) as segment:
        for red, side in ((255, 64), (0, 128), (255, 512), (0, 64), (255, 128)):
            frame = plain(red, side, side)
            segment.resize(frame.nbytes)
            segment.write(frame)
            assert caller.detect("cls", caller.shared(frame, segment)).is_anomalous is (red > 127)


def test_a_segment_of_another_user_with_an_open_mode_is_readable(caller: Caller) -> None:
    """Section 2.2: clients create it with 0666 before their umask."""
    if os.geteuid() != 0:
        pytest.skip("needs root to give a segment to another user")
    frame = plain(255)
    with Segment(frame.nbytes, mode=0o644) as segment:
        segment.write(frame)
        os.fchown(segment.descriptor, 65534, 65534)
        assert caller.detect("cls", caller.shared(frame, segment)).is_anomalous


@pytest.mark.parametrize(
    "name", ["", "/", ".", "..", "a/b", "../dev/shm/x", "//x", "\0", "x" * 300]
)
def test_what_is_no_name_of_a_segment_is_refused(caller: Caller, name: str) -> None:
    """Row 23."""
    handle = PB.SharedMemoryHandle(name=name, size=64 * 64 * 3)
    refused(
        INVALID_ARGUMENT,
        caller.detect,
        "cls",
        PB.Bitmap(width=64, height=64, shared_memory_handle=handle),
    )


def test_a_segment_that_does_not_exist_is_refused_by_name(caller: Caller) -> None:
    """Row 23."""
    handle = PB.SharedMemoryHandle(name="edge-agent-test-nowhere", size=64 * 64 * 3)
    bitmap = PB.Bitmap(width=64, height=64, shared_memory_handle=handle)
    details = refused(INVALID_ARGUMENT, caller.detect, "cls", bitmap)
    assert "'edge-agent-test-nowhere' doesn't exist" in details


@pytest.mark.parametrize(
    ("size", "offset"),
    [
        (12288, 1),
        (12289, 0),
        (0, 0),
        (0, 12288),
        (12288, 2**64 - 1),
        (2**64 - 1, 0),
        (2**63, 2**63),
    ],
)
def test_a_part_that_is_not_in_the_segment_is_refused(
    caller: Caller, size: int, offset: int
) -> None:
    """Row 23."""
    with Segment(12288) as segment:
        handle = segment.handle(PB, size, offset)
        bitmap = PB.Bitmap(width=64, height=64, shared_memory_handle=handle)
        details = refused(INVALID_ARGUMENT, caller.detect, "cls", bitmap)
        assert "has 12288 bytes" in details


def test_an_empty_segment_is_refused(caller: Caller) -> None:
    """Row 23."""
    with Segment(0) as segment:
        bitmap = caller.shared(plain(0), segment)
        assert "0 bytes" in refused(INVALID_ARGUMENT, caller.detect, "cls", bitmap)


def test_a_request_without_a_bitmap_is_refused(caller: Caller) -> None:
    """Row 24."""
    assert "no bitmap" in refused(INVALID_ARGUMENT, caller.detect, "cls", None)


@pytest.mark.parametrize(
    "bitmap", [PB.Bitmap(width=64, height=64), PB.Bitmap(width=64, height=64, byte_data=b"")]
)
def test_a_bitmap_without_pixels_is_refused(caller: Caller, bitmap: Any) -> None:
    """Row 24."""
    assert "no data" in refused(INVALID_ARGUMENT, caller.detect, "cls", bitmap)


@pytest.mark.parametrize(
    ("width", "height"),
    [(63, 64), (64, 63), (4097, 64), (64, 4097), (0, 0), (-1, 64), (64, -1), (2**31 - 1,) * 2],
)
def test_a_size_out_of_bounds_is_refused(caller: Caller, width: int, height: int) -> None:
    """Row 25."""
    data = bytes(min(max(width * height * 3, 3), 2**20))
    bitmap = PB.Bitmap(width=width, height=height, byte_data=data)
    details = refused(INVALID_ARGUMENT, caller.detect, "cls", bitmap)
    assert f"{width}x{height}" in details
    assert "64 to 4096" in details


@pytest.mark.parametrize(("width", "height"), [(64, 64), (4096, 64), (64, 4096), (4096, 4096)])
def test_the_smallest_and_largest_frames_are_judged(send: Any, width: int, height: int) -> None:
    """Row 26."""
    result = send("cls", plain(255, width, height))
    assert result.is_anomalous
    assert result.anomaly_score == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("extra", [-1, 1, 64 * 3, -64 * 64 * 3 + 1])
def test_bytes_that_do_not_fit_the_size_are_refused(caller: Caller, extra: int) -> None:
    """Row 27."""
    data = bytes(64 * 64 * 3 + extra)
    bitmap = PB.Bitmap(width=64, height=64, byte_data=data)
    details = refused(INVALID_ARGUMENT, caller.detect, "cls", bitmap)
    assert f"{len(data)} bytes" in details
    assert "12288" in details


@pytest.mark.parametrize("kind", [".jpg", ".png"])
def test_an_encoded_picture_is_refused(caller: Caller, kind: str) -> None:
    """Row 28."""
    encoded = cv2.imencode(kind, plain(200, 640, 480))[1].tobytes()
    bitmap = PB.Bitmap(width=640, height=480, byte_data=encoded)
    assert "decoded" in refused(INVALID_ARGUMENT, caller.detect, "cls", bitmap)


@pytest.mark.parametrize("width", [65, 66, 67])
def test_rows_padded_to_four_bytes_are_the_same_frame(caller: Caller, width: int) -> None:
    """Section 2.2: GStreamer pads its rows."""
    frame = np.random.default_rng(3).integers(0, 256, (70, width, 3), np.uint8)
    row = (width * 3 + 3) // 4 * 4
    padded = np.full((70, row), 255, np.uint8)
    padded[:, : width * 3] = frame.reshape(70, width * 3)
    expected = caller.detect("cls", frame)
    bitmap = PB.Bitmap(width=width, height=70, byte_data=padded.tobytes())
    assert caller.detect("cls", bitmap) == expected
    with Segment(padded.nbytes) as segment:
        segment.write(padded)
        assert caller.detect("cls", caller.shared(frame, segment, 0, padded.nbytes)) == expected


def test_a_strict_model_takes_its_own_size_only(send: Any) -> None:
    """Section 8: strict mode."""
    assert send("strict", plain(255)).is_anomalous
    details = refused(INVALID_ARGUMENT, send, "strict", plain(255, 65, 64))
    assert "65x64" in details
    assert "64x64 only" in details


def test_swapped_channels_are_no_error(send: Any) -> None:
    """Row 44."""
    frame = plain(255)
    assert send("cls", frame).is_anomalous
    assert not send("cls", frame[..., ::-1].copy()).is_anomalous
