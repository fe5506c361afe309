"""Which camera took a picture, by the EXIF data of its file."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Iterator, Tuple

START_BYTES = 1 << 17  # EXIF data stand at the beginning, and have at most 64 KiB
MARKS = (b"Exif\0\0", b"eXIf")  # in a JPEG or WebP, in a PNG
ORDERS = {b"II*\0": "<", b"MM\0*": ">"}
MAKE, MODEL, TEXT = 0x10F, 0x110, 2
MOST_ENTRIES = 200
MOST_CHARACTERS = 64


def camera(path: Path) -> str:
    """Return make and model of the camera; empty where the file doesn't say."""
    try:
        with path.open("rb") as file:
            start = file.read(START_BYTES)
        block = next(start[at:] for at in _starts(start))
        return " ".join(text for _, text in sorted(_texts(block)) if text)
    except (OSError, StopIteration, struct.error):
        return ""


def _starts(content: bytes) -> Iterator[int]:
    if content[:4] in ORDERS:  # a TIFF
        yield 0
    for mark in MARKS:
        at = content.find(mark) + len(mark)
        if at >= len(mark) and content[at : at + 4] in ORDERS:
            yield at


def _texts(block: bytes) -> Iterator[Tuple[int, str]]:
    """Yield make and model of a TIFF's first directory. Raises struct.error at its end."""
    order = ORDERS[block[:4]]
    (at,) = struct.unpack_from(order + "I", block, 4)
    (count,) = struct.unpack_from(order + "H", block, at)
    for index in range(min(count, MOST_ENTRIES)):
        entry = at + 2 + 12 * index
        tag, kind, length, place = struct.unpack_from(order + "HHII", block, entry)
        if tag in (MAKE, MODEL) and kind == TEXT:
            place = entry + 8 if length <= 4 else place
            text = block[place : place + min(length, MOST_CHARACTERS)]
            yield tag, text.split(b"\0")[0].decode("ascii", "replace").strip()
