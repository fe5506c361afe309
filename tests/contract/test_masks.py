"""Masks and anomaly lists: what they hold, and where the caller has them written."""

from __future__ import annotations

import ctypes
import os
import re
import sys
from pathlib import Path
from typing import Any, List

import numpy as np
import pytest

from tests.contract import generations
from tests.contract.calls import (
    INVALID_ARGUMENT,
    Caller,
    Segment,
    colors,
    defective,
    plain,
    refused,
)
from tests.fakes import micro
from tests.fakes.agent import Agent

PB = generations.LAST
WHITE, SCRATCH, DENT = (255, 255, 255), (0x2C, 0xA0, 0x2C), (0x1F, 0x77, 0xB4)
SIZES = [(64, 64), (128, 96), (640, 480), (67, 301)]


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_a_mask_has_the_size_of_the_frame_and_listed_colours(
    send: Any, width: int, height: int
) -> None:
    """Row 29."""
    result = send("seg", defective(width, height))
    mask = result.anomaly_mask
    assert (mask.width, mask.height) == (width, height)
    assert mask.WhichOneof("data") == "byte_data"
    assert len(mask.byte_data) == width * height * 3
    found = {tuple(color) for color in colors(mask.byte_data, width, height)[0].tolist()}
    listed = {bytes.fromhex(entry.pixel_anomaly.hex_color[1:]) for entry in result.anomalies}
    assert found == {tuple(color) for color in listed} == {WHITE, SCRATCH, DENT}


def test_a_mask_paints_each_pixel_with_the_colour_of_its_type(send: Any) -> None:
    """Row 29; with the model's own size every pixel is known."""
    mask = send("seg", defective()).anomaly_mask.byte_data
    expected = np.full((64, 64, 3), 255, np.uint8)
    expected[:32, :32] = SCRATCH
    expected[48:, 48:] = DENT
    assert mask == expected.tobytes()


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_the_list_names_each_type_once_with_its_share_of_pixels(
    send: Any, width: int, height: int
) -> None:
    """Row 30."""
    result = send("seg", defective(width, height))
    entries = result.anomalies
    assert [entry.name for entry in entries] == ["background", "scratch", "dent"]
    assert [entry.pixel_anomaly.hex_color for entry in entries] == ["#FFFFFF", "#2CA02C", "#1F77B4"]
    assert all(re.match("^#[0-9A-F]{6}$", entry.pixel_anomaly.hex_color) for entry in entries)
    values, counts = colors(result.anomaly_mask.byte_data, width, height)
    pixels = dict(zip((tuple(value) for value in values.tolist()), counts.tolist()))
    for entry, color in zip(entries, (WHITE, SCRATCH, DENT)):
        share = pixels[color] / (width * height)
        assert entry.pixel_anomaly.total_percentage_area == pytest.approx(share, abs=1e-6)
    total = sum(entry.pixel_anomaly.total_percentage_area for entry in entries)
    assert total == pytest.approx(1.0, abs=1e-6)


def test_a_normal_frame_has_a_white_mask_and_only_background(send: Any) -> None:
    """Row 31."""
    result = send("seg", plain(51, 100, 80))
    assert not result.is_anomalous
    assert result.anomaly_mask.byte_data == b"\xff" * (100 * 80 * 3)
    (entry,) = result.anomalies
    assert (entry.name, entry.pixel_anomaly.total_percentage_area) == ("background", 1.0)


def test_the_background_is_listed_even_where_no_pixel_of_it_is_left(send: Any) -> None:
    """Section 2.6: background first, even at 0.0; types without a pixel are left out."""
    entries = send("seg", plain(255)).anomalies
    found = [(entry.name, entry.pixel_anomaly.total_percentage_area) for entry in entries]
    assert found == [("background", 0.0), ("scratch", 1.0)]


def test_an_anomaly_map_has_one_type_in_the_second_colour_of_the_palette(send: Any) -> None:
    result = send("heat", defective())
    found = [(entry.name, entry.pixel_anomaly.hex_color) for entry in result.anomalies]
    assert found == [("background", "#FFFFFF"), ("anomaly", "#23A436")]
    assert result.anomalies[1].pixel_anomaly.total_percentage_area == pytest.approx(0.25)
    assert len(result.anomaly_mask.byte_data) == 64 * 64 * 3


@pytest.mark.parametrize("generation", ["mask_at_2", "mask_at_3", "last"])
@pytest.mark.parametrize("transport", ["bytes", "shared_memory"])
def test_a_mask_handle_gets_the_mask_written_to_its_segment(
    agent: Agent, generation: str, transport: str
) -> None:
    """Rows 32 and 33."""
    messages = generations.GENERATIONS[generation]
    frame = defective(640, 480)
    with agent.channel() as channel, Segment(frame.nbytes) as source, Segment(
        frame.nbytes
    ) as target:
        caller = Caller(channel, messages)
        expected = caller.detect("seg", frame)
        source.write(frame)
        bitmap = frame if transport == "bytes" else caller.shared(frame, source)
        handle = target.handle(messages, frame.nbytes)
        result = caller.detect("seg", bitmap, handle)
        written = target.read()
    mask = result.anomaly_mask
    assert written == expected.anomaly_mask.byte_data
    assert (mask.width, mask.height) == (640, 480)
    assert mask.byte_data == b""
    assert mask.WhichOneof("data") == "shared_memory_handle"
    assert mask.shared_memory_handle == handle
    assert result.anomalies == expected.anomalies
    assert result.confidence == expected.confidence


def test_the_handle_in_field_two_wins_over_the_one_in_field_three(channel: Any) -> None:
    """Section 2.1."""
    tables = generations.tables_with_masks(2)
    tables["AnomalyMaskParams"].append((3, "other_handle", "SharedMemoryHandle"))
    caller = Caller(channel, generations.messages(tables))
    frame = defective()
    with Segment(frame.nbytes) as second, Segment(frame.nbytes) as third:
        request = caller.messages.DetectAnomaliesRequest(
            model_component="seg", bitmap=caller.bitmap(frame)
        )
        params = request.anomaly_mask_params
        params.shared_memory_handle.CopyFrom(second.handle(caller.messages, frame.nbytes))
        params.other_handle.CopyFrom(third.handle(caller.messages, frame.nbytes))
        reply = caller.stub.DetectAnomalies(request, timeout=10)
        mask = reply.detect_anomaly_result.anomaly_mask
        assert mask.shared_memory_handle.name == second.name
        assert second.read().startswith(bytes(SCRATCH))
        assert third.read() == bytes(frame.nbytes)


def test_a_frame_in_shared_memory_without_a_mask_handle_gets_its_mask_as_bytes(
    caller: Caller,
) -> None:
    """Section 8."""
    frame = defective()
    with Segment(frame.nbytes) as segment:
        segment.write(frame)
        mask = caller.detect("seg", caller.shared(frame, segment)).anomaly_mask
    assert mask.WhichOneof("data") == "byte_data"
    assert len(mask.byte_data) == frame.nbytes


def test_empty_mask_parameters_mean_bytes(caller: Caller) -> None:
    """Section 8."""
    request = PB.DetectAnomaliesRequest(model_component="seg", bitmap=caller.bitmap(defective()))
    request.anomaly_mask_params.SetInParent()
    reply = caller.stub.DetectAnomalies(request, timeout=10)
    assert reply.detect_anomaly_result.anomaly_mask.WhichOneof("data") == "byte_data"


@pytest.mark.parametrize("offset", [0, 1, 4096])
def test_a_mask_never_leaves_its_part_of_the_segment(caller: Caller, offset: int) -> None:
    """Row 34: what lies before and behind the mask stays as it was."""
    frame = defective(100, 80)
    with Segment(offset + frame.nbytes + 5000) as segment:
        segment.write(b"\xaa" * (offset + frame.nbytes + 5000))
        handle = segment.handle(PB, frame.nbytes + 5000, offset)
        result = caller.detect("seg", frame, handle)
        written = segment.read()
    assert result.anomaly_mask.shared_memory_handle == handle
    assert written[:offset] == b"\xaa" * offset
    assert written[offset : offset + frame.nbytes] == (
        caller.detect("seg", frame).anomaly_mask.byte_data
    )
    assert written[offset + frame.nbytes :] == b"\xaa" * 5000


@pytest.mark.parametrize(("size", "offset"), [(-1, 0), (0, 1), (0, 2**64 - 1), (2**40, 0)])
def test_a_mask_that_has_no_room_is_refused_and_nothing_is_written(
    caller: Caller, size: int, offset: int
) -> None:
    """Row 34: one byte too small, or partly outside."""
    frame = defective()
    with Segment(frame.nbytes) as segment:
        segment.write(b"\xaa" * frame.nbytes)
        handle = segment.handle(PB, frame.nbytes + size, offset)
        details = refused(INVALID_ARGUMENT, caller.detect, "seg", frame, handle)
        assert "12288" in details or "12287" in details
        assert segment.read() == b"\xaa" * frame.nbytes


def test_a_mask_segment_that_is_missing_is_refused(caller: Caller) -> None:
    """Row 34."""
    handle = PB.SharedMemoryHandle(name="edge-agent-test-nowhere", size=64 * 64 * 3)
    details = refused(INVALID_ARGUMENT, caller.detect, "seg", defective(), handle)
    assert "'edge-agent-test-nowhere' doesn't exist" in details


class OrdinaryAgent(Agent):
    """An agent to which file modes apply, as to any user but root."""

    def command(self) -> List[str]:
        drop = (
            "import ctypes, os, sys; PR_CAPBSET_DROP, DAC_OVERRIDE = 24, 1;"
            "ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, DAC_OVERRIDE, 0, 0, 0);"
            "os.execv(sys.executable, sys.argv[1:])"
        )
        return [sys.executable, "-c", drop, *super().command()]


def test_a_mask_segment_that_is_read_only_is_refused(tmp_path: Path) -> None:
    """Row 34."""
    if os.geteuid() == 0 and not ctypes.CDLL(None).prctl(23, 8, 0, 0, 0):  # CAP_SETPCAP
        pytest.skip("root that can't drop its own override of file modes")
    agent = OrdinaryAgent(tmp_path)
    micro.write(agent.models / "seg", "segmentation")
    frame = defective()
    with agent, agent.channel() as channel, Segment(frame.nbytes, mode=0o444) as segment:
        agent.run("seg")
        caller = Caller(channel)
        handle = segment.handle(PB, frame.nbytes)
        details = refused(INVALID_ARGUMENT, caller.detect, "seg", frame, handle)
        assert "isn't writable" in details
        assert segment.read() == bytes(frame.nbytes)
        os.fchmod(segment.descriptor, 0o666)
        assert caller.detect("seg", frame, handle).anomaly_mask.shared_memory_handle == handle


def test_a_classification_model_ignores_a_mask_handle(caller: Caller) -> None:
    """Row 35; even one that leads nowhere."""
    frame = plain(255)
    with Segment(frame.nbytes) as segment:
        result = caller.detect("cls", frame, segment.handle(PB, frame.nbytes))
        assert segment.read() == bytes(frame.nbytes)
    assert not result.HasField("anomaly_mask")
    nowhere = PB.SharedMemoryHandle(name="edge-agent-test-nowhere", size=1)
    assert caller.detect("cls", frame, nowhere) == result


def test_a_mask_may_replace_its_own_frame(caller: Caller) -> None:
    """One segment, one part of it, for both."""
    frame = defective()
    expected = caller.detect("seg", frame).anomaly_mask.byte_data
    with Segment(frame.nbytes) as segment:
        segment.write(frame)
        caller.detect("seg", caller.shared(frame, segment), segment.handle(PB, frame.nbytes))
        assert segment.read() == expected


def test_a_mask_of_the_largest_frame_comes_through_shared_memory(caller: Caller) -> None:
    """Section 2.6: by bytes it would exceed what a default client receives."""
    frame = defective(4096, 4096)
    with Segment(2 * frame.nbytes) as segment:
        segment.write(frame)
        handle = segment.handle(PB, frame.nbytes, frame.nbytes)
        result = caller.detect("seg", caller.shared(frame, segment), handle)
        assert (result.anomaly_mask.width, result.anomaly_mask.height) == (4096, 4096)
        assert segment.read()[frame.nbytes :][:3] == bytes(SCRATCH)
