"""Lines of an object, of which only one is in memory at a time."""

from __future__ import annotations

from typing import BinaryIO, Iterator

MOST_LINE_BYTES = 64 * 1024


def lines_of(file: BinaryIO) -> Iterator[bytes]:
    """Yield the lines of a file with their ends; of one over 64 KiB, only so much."""
    while True:
        line = file.readline(MOST_LINE_BYTES)
        if not line:
            return
        yield line
        while line and not line.endswith(b"\n"):
            line = file.readline(MOST_LINE_BYTES)
