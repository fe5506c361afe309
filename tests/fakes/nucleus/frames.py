"""Frames of the Greengrass nucleus's IPC (AWS event stream), written and read.

A frame: its length, the length of its headers, the CRC32 of both (u32 each, big-endian), headers,
payload, CRC32 of all before. A header: length of its name (u8), name, type (u8; 4: int32, 7: string
with a u16 length), value.
"""

from __future__ import annotations

import struct
from binascii import crc32
from typing import Dict, Tuple, Union

INT32, STRING = 4, 7

Header = Union[int, str]
Frame = Tuple[Dict[str, Header], bytes]


def size_of(start: bytes) -> int:
    """The length of a frame, from its first four bytes. Raises EOFError when there is none."""
    if len(start) < 4:
        raise EOFError
    return int(struct.unpack(">I", start)[0])


def encode(headers: Dict[str, Header], payload: bytes) -> bytes:
    block = b""
    for name, value in headers.items():
        block += struct.pack(">B", len(name)) + name.encode()
        if isinstance(value, int):
            block += struct.pack(">Bi", INT32, value)
        else:
            block += struct.pack(">BH", STRING, len(value)) + value.encode()
    prelude = struct.pack(">II", 16 + len(block) + len(payload), len(block))
    frame = prelude + struct.pack(">I", crc32(prelude)) + block + payload
    return frame + struct.pack(">I", crc32(frame))


def decode(frame: bytes) -> Frame:
    assert struct.unpack(">I", frame[-4:]) == (crc32(frame[:-4]),)
    (end,) = struct.unpack(">I", frame[4:8])
    end, at = end + 12, 12
    headers: Dict[str, Header] = {}
    while at < end:
        named = at + 1 + frame[at]
        name, kind = frame[at + 1 : named].decode(), frame[named]
        if kind == INT32:
            (headers[name],) = struct.unpack(">i", frame[named + 1 : named + 5])
            at = named + 5
        else:
            (length,) = struct.unpack(">H", frame[named + 1 : named + 3])
            at = named + 3 + length
            headers[name] = frame[named + 3 : at].decode()
    return headers, frame[end:-4]
