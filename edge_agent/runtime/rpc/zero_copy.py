"""Frames and masks in serialised messages, without protobuf's copies of them.

protobuf copies a bytes field twice to read it and twice to write it, and a frame of 1920x1080
pixels has 6 MB. Here a frame is a view of the message that brought it, and a mask is copied once,
to its place in the answer. Everything else in the messages stays protobuf's business.
Format: https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Iterator, Optional, Tuple

from edge_agent.errors import InvalidRequest
from edge_agent.wire import edge_agent_pb2 as wire

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MOST_FIELDS = 32  # of one message; clients write up to 4
MOST_REST_BYTES = 64 * 1024  # beside the pixels, because these keep the whole message in memory
MOST_NAMES_BYTES = 256 * 1024  # beside the pixels, whatever way the message is read

BYTES = 2  # wire type of bytes fields and messages
VARINT = 0
FIXED = {1: 8, 5: 4}  # wire type: bytes
VARINT_BYTES, LENGTH_BYTES = 10, 5  # at most

Field = Tuple[int, int, int, int]  # its tag; where it begins, its value begins, it ends


class _Unusual(Exception):
    """The message isn't laid out as clients do it."""


def split_pixels(content: bytes) -> Optional[Tuple[bytes, memoryview]]:
    """Return a serialised DetectAnomaliesRequest without its frame's pixels, and the pixels.

    The pixels are a view of `content`. None when there aren't any, or when only protobuf knows
    what the message means.
    """
    try:
        _, begin, inner, end = _only(content, 0, len(content), BITMAP)
        _, pixels_begin, pixels, pixels_end = _only(content, inner, end, BYTE_DATA, not_=HANDLE)
    except (_Unusual, IndexError):  # IndexError: cut short
        return None
    if len(content) - (pixels_end - pixels) > MOST_REST_BYTES:
        return None
    bitmap = content[inner:pixels_begin] + content[pixels_end:end]
    rest = content[:begin] + bytes([BITMAP]) + _varint(len(bitmap)) + bitmap + content[end:]
    return rest, memoryview(content)[pixels:pixels_end]


def check_names_bytes(message_bytes: int, request: wire.DetectAnomaliesRequest) -> None:
    """Raise InvalidRequest when a request of `message_bytes` has too much beside its pixels.

    Copies nothing but the pixels.
    """
    names_bytes = message_bytes
    if names_bytes > MOST_NAMES_BYTES:
        names_bytes -= len(request.bitmap.byte_data)
    if names_bytes > MOST_NAMES_BYTES:
        raise InvalidRequest(
            f"The request has {names_bytes} bytes beside the frame's pixels; at most "
            f"{MOST_NAMES_BYTES} are expected for names and sizes."
        )


def append_pixels(pixels: NDArray[np.uint8], *levels: Tuple[bytes, int]) -> bytes:
    """Return a message with C-contiguous `pixels` in it.

    levels: from the innermost on, a serialised message and the number of the field that is
    missing in it: first that of the pixels, then that of the message before.
    """
    head = b""
    for message, number in levels:
        head = message + bytes([_tag(number)]) + _varint(len(head) + pixels.nbytes) + head
    return b"".join((head, pixels.data))


def _tag(number: int) -> int:
    return number << 3 | BYTES


BITMAP = _tag(wire.DetectAnomaliesRequest.BITMAP_FIELD_NUMBER)
BYTE_DATA = _tag(wire.Bitmap.BYTE_DATA_FIELD_NUMBER)
HANDLE = _tag(wire.Bitmap.SHARED_MEMORY_HANDLE_FIELD_NUMBER)


def _only(content: bytes, at: int, end: int, tag: int, not_: int = 0) -> Field:
    """Return the one field with this tag; others of the same kind or with `not_` are unusual."""
    fields = list(_fields(content, at, end))
    found = [field for field in fields if field[0] == tag]
    if len(found) != 1 or any(field[0] == not_ for field in fields):
        raise _Unusual
    return found[0]


def _fields(content: bytes, at: int, end: int) -> Iterator[Field]:
    for _ in range(MOST_FIELDS):
        if at >= end:
            break
        begin, tag = at, content[at]
        kind = tag & 7
        if not 8 <= tag < 128:  # numbers of one byte, as all of ours are
            raise _Unusual
        if kind == BYTES:
            length, value = _read_varint(content, at + 1, LENGTH_BYTES)
            at = value + length
        elif kind == VARINT:
            value = at + 1
            _, at = _read_varint(content, value, VARINT_BYTES)
        elif kind in FIXED:
            value = at + 1
            at = value + FIXED[kind]
        else:
            raise _Unusual
        yield tag, begin, value, at
    if at != end:
        raise _Unusual


def _read_varint(content: bytes, at: int, longest: int) -> Tuple[int, int]:
    """Return the number that begins at `at`, and where it ends."""
    number = 0
    for shift in range(0, 7 * longest, 7):
        byte = content[at]
        at += 1
        number |= (byte & 127) << shift
        if byte < 128:
            return number, at
    raise _Unusual


def _varint(number: int) -> bytes:
    written = bytearray()
    while number > 127:
        written.append(number & 127 | 128)
        number >>= 7
    written.append(number)
    return bytes(written)
