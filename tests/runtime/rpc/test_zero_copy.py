"""Messages with pixels mean what protobuf says they mean, read and written."""

from __future__ import annotations

import random
from typing import Any, Dict, Optional, Tuple

import numpy as np
import pytest

from edge_agent.errors import InvalidRequest, MalformedMessage
from edge_agent.runtime.rpc import convert, servicer, zero_copy
from edge_agent.runtime.rpc.memory_budget import MemoryBudget
from edge_agent.types import Anomaly, CameraProblem, FrameRequest, Prediction, Region
from edge_agent.wire import edge_agent_pb2 as wire
from edge_agent.wire import edge_agent_v1_pb2 as wire_v1

PIXELS = bytes(range(256)) * 40
HANDLE = wire.SharedMemoryHandle(name="/frame", size=12, offset=3)


def request(**bitmap: Any) -> wire.DetectAnomaliesRequest:
    return wire.DetectAnomaliesRequest(
        model_component="part",
        bitmap=wire.Bitmap(width=64, height=70, **bitmap),
        anomaly_mask_params=wire.AnomalyMaskParams(shared_memory_handle=HANDLE),
    )


def field(number: int, content: bytes) -> bytes:
    """A length-delimited field as it stands in a message."""
    return (
        wire.Bitmap(byte_data=content)
        .SerializeToString()
        .replace(b"\x1a", bytes([number << 3 | 2]), 1)
    )


WHOLE = request(byte_data=PIXELS).SerializeToString()
INNER = wire.Bitmap(width=64, height=70, byte_data=PIXELS).SerializeToString()
NAMED = field(1, b"part")
UNUSUAL: Dict[str, bytes] = {
    "no bitmap": NAMED,
    "nothing": b"",
    "no pixels": request().SerializeToString(),
    "shared memory": request(shared_memory_handle=HANDLE).SerializeToString(),
    "two bitmaps, which protobuf merges": WHOLE
    + field(2, wire.Bitmap(width=99).SerializeToString()),
    "pixels twice": NAMED + field(2, INNER + field(3, b"later")),
    "first pixels, then a handle": NAMED + field(2, INNER + field(4, HANDLE.SerializeToString())),
    "a field of a large number": WHOLE + b"\xfa\x01\x01x",
    "more small fields than clients write": WHOLE + b"\x78\x01" * 40,
    "the same within the bitmap": NAMED + field(2, INNER + b"\x78\x01" * 40),
    "much beside the pixels": WHOLE + field(9, bytes(70_000)),
    "a length longer than lengths are": NAMED + field(2, b"\x1a\x83\x80\x80\x80\x80\x00abc"),
    "a group": WHOLE + b"\x3b\x3c",
}
USUAL: Dict[str, bytes] = {
    "as clients write it": WHOLE,
    "pixels first": field(2, field(3, PIXELS) + b"\x08\x40\x10\x46") + NAMED,
    "empty pixels": NAMED + field(2, b"\x08\x40\x1a\x00"),
    "unknown fields": b"\x35four" + WHOLE + b"\x29eight..." + b"x\x07" + field(9, b"new"),
    "negative width": NAMED + field(2, b"\x08" + b"\xff" * 9 + b"\x01" + field(3, PIXELS)),
    "a longer way to write a length": NAMED + field(2, b"\x1a\x83\x80\x00abc"),
}


def read_large(content: bytes) -> FrameRequest:
    return servicer._read_large(content, MemoryBudget(1 << 40).lease(lambda: None))


def read(content: bytes, large: bool) -> Optional[FrameRequest]:
    try:
        found = read_large(content) if large else servicer._read(content)
    except (InvalidRequest, MalformedMessage):
        return None
    bitmap = found.bitmap
    if bitmap is not None and isinstance(bitmap.data, memoryview):
        bitmap = bitmap._replace(data=bytes(bitmap.data))
    return found._replace(bitmap=bitmap)


@pytest.mark.parametrize("name", [*USUAL, *UNUSUAL])
def test_a_request_means_what_protobuf_says(name: str) -> None:
    content = {**USUAL, **UNUSUAL}[name]
    assert read(content, large=True) == read(content, large=False)
    assert (zero_copy.split_pixels(content) is not None) == (name in USUAL)


def test_pixels_are_not_copied() -> None:
    found = read_large(WHOLE)
    assert found.bitmap is not None
    assert isinstance(found.bitmap.data, memoryview)
    assert found.bitmap.data.obj is WHOLE


@pytest.mark.parametrize("seed", range(8))
def test_broken_requests_are_broken_in_the_same_way(seed: int) -> None:
    """Cut short, with bytes changed, taken out and put in, mostly where the fields begin."""
    rng = random.Random(seed)
    short = NAMED + field(2, b"\x08\x40\x10\x46" + field(3, b"rgb" * 9)) + field(3, b"")
    taken = 0
    for _ in range(1500):
        content = bytearray(rng.choice([short, *USUAL.values(), *UNUSUAL.values()]))
        for _ in range(rng.randint(1, 3)):
            at = rng.randrange(min(len(content), 40) or 1)
            new = bytes(rng.randrange(256) for _ in range(rng.randint(0, 2)))
            content[at : at + rng.randint(0, 2)] = new
        if content and rng.random() < 0.2:  # a length or a tag in more bytes than it needs
            at = rng.randrange(min(len(content), 40))
            content[at : at + 1] = bytes([content[at] | 128, *[128] * rng.randint(0, 8), 0])
        if rng.random() < 0.2:
            del content[rng.randrange(len(content) + 1) :]
        changed = bytes(content)
        assert read(changed, large=True) == read(changed, large=False), changed
        taken += zero_copy.split_pixels(changed) is not None
    assert taken > 20


def prediction(shape: Tuple[int, int]) -> Prediction:
    mask = np.random.default_rng(1).integers(0, 256, (*shape, 3), np.uint8)
    return Prediction(
        is_anomalous=True,
        confidence=0.75,
        score=0.75,
        threshold=0.5,
        anomalies=(Anomaly("background", 0.9, "#FFFFFF"), Anomaly("scratch", 0.1, "#23A436")),
        regions=(Region("scratch", 1, 2, 3, 4, 0.1, 0.7),),
        mask=mask,
        mask_size=(shape[1], shape[0]),
        model_version="7",
        camera_problems=(CameraProblem.DARK,),
        result_id="id",
    )


@pytest.mark.parametrize("shape", [(64, 64), (65, 70), (1080, 1920)])
def test_an_answer_with_a_mask_is_the_one_protobuf_writes(shape: Tuple[int, int]) -> None:
    given = prediction(shape)
    expected = convert.inspect_response(given, None)
    assert expected.result.anomaly_mask.byte_data == given.mask.tobytes()
    assert wire_v1.InspectResponse.FromString(convert.inspect_answer(given, None)) == expected
    answer = wire.DetectAnomaliesResponse.FromString(convert.detect_answer(given, None))
    assert answer.detect_anomaly_result == expected.result
