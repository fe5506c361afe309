"""What an image file says of itself before it is decoded: format, size, depth, completeness.

Read from the bytes alone, so that a name may lie and a giant picture takes no memory.
"""

from __future__ import annotations

import re
import struct
import zlib
from itertools import chain
from typing import Callable, Dict, Iterator, NamedTuple, Tuple

PNG_START = b"\x89PNG\r\n\x1a\n"
JPEG_START, JPEG_END, JPEG_SCAN = b"\xff\xd8\xff", b"\xff\xd9", 0xDA
NO_FRAMES = (0xC4, 0xC8, 0xCC)  # markers among those of frames, C0 to CF, that are none
GIF_IMAGE, GIF_EXTENSION, GIF_END = b",", b"!", b";"
TIFF_TYPES = {1: "B", 3: "H", 4: "I", 16: "Q"}  # BYTE, SHORT, LONG, LONG8
MOST_TIFF_TAGS = 1000
MOST_TIFF_VALUES = 1 << 20  # of one tag
WIDTH, HEIGHT, BITS, STRIPS, STRIP_BYTES, TILES, TILE_BYTES = 256, 257, 258, 273, 279, 324, 325
EXTRA_SAMPLES = 338  # what is beside the colours: alpha
# Binary PGM and PPM: width, height, highest value; white space and comments between them.
_GAP = rb"(?:\s|#[^\n]{0,1000}\n){1,100}"
PNM = re.compile(rb"P([56])" + _GAP + rb"(\d{1,9})" + _GAP + rb"(\d{1,9})" + _GAP + rb"(\d{1,5})\s")
FORMATS = "PNG, JPEG, BMP, TIFF, WebP, GIF, PGM or PPM"


class TiffLayout(NamedTuple):
    """How numbers are stored: their order, of a directory's length and of an offset; in bytes."""

    order: str
    length: str = "H"
    offset: str = "I"
    directory_at: int = 4  # where the first one's offset stands

    def read(self, layout: str, content: bytes, at: int) -> Tuple[int, ...]:
        """Unpack numbers. Raises struct.error behind the end of the file."""
        return struct.unpack_from(self.order + layout, content, at)


TIFF_LAYOUTS = {
    b"II*\0": TiffLayout("<"),
    b"MM\0*": TiffLayout(">"),
    b"II+\0": TiffLayout("<", "Q", "Q", 8),  # BigTIFF
    b"MM\0+": TiffLayout(">", "Q", "Q", 8),
}


class PictureHeader(NamedTuple):
    """Size in pixels as stored, bits a channel, and whether the file is as long as it must be."""

    format: str
    width: int
    height: int
    bits: int = 8
    is_complete: bool = True


def read_header(content: bytes) -> PictureHeader:
    """Read the header of a whole file. Raises ValueError: why it is no picture, in few words."""
    if not content:
        raise ValueError("it is empty")
    start = content[:16]
    for is_it, read in READERS.items():
        if is_it(start):
            try:
                header = read(content)
            except (struct.error, IndexError, OverflowError):
                raise ValueError("it is cut short: its header isn't whole") from None
            if min(header.width, header.height) < 1:
                raise ValueError(f"it is damaged: {header.format} without any pixels")
            return header
    raise ValueError(f"it can't be read as an image: it isn't {FORMATS}")


def _png(content: bytes) -> PictureHeader:
    width, height, bits = struct.unpack_from(">IIB", content, len(PNG_START) + 8)
    return PictureHeader("PNG", width, height, bits, _png_is_whole(content))


def _png_is_whole(content: bytes) -> bool:
    """Check all chunks up to the last one, IEND, with their checksums."""
    view, at = memoryview(content), len(PNG_START)
    while at + 12 <= len(content):
        (length,) = struct.unpack_from(">I", content, at)
        end = at + 8 + length
        if end + 4 > len(content):
            return False
        if zlib.crc32(view[at + 4 : end]) != struct.unpack_from(">I", content, end)[0]:
            return False
        if content[at + 4 : at + 8] == b"IEND":
            return True
        at = end + 4
    return False


def _jpeg(content: bytes) -> PictureHeader:
    for marker, at in _jpeg_segments(content):
        if 0xC0 <= marker <= 0xCF and marker not in NO_FRAMES:
            bits, height, width = struct.unpack_from(">BHH", content, at)
            whole = content.rfind(JPEG_END, at) >= 0
            return PictureHeader("JPEG", width, height, bits, whole)
        if marker == JPEG_SCAN:
            break
    raise ValueError("it is damaged: the JPEG has no size")


def _jpeg_segments(content: bytes) -> Iterator[Tuple[int, int]]:
    """Yield the marker of each segment and where its data begin."""
    at = len(JPEG_START) - 1
    while True:
        while content[at] == 0xFF and content[at + 1] == 0xFF:  # padding
            at += 1
        if content[at] != 0xFF:
            return
        yield content[at + 1], at + 4
        at += 2 + struct.unpack_from(">H", content, at + 2)[0]


def _bmp(content: bytes) -> PictureHeader:
    (offset,) = struct.unpack_from("<I", content, 10)
    if struct.unpack_from("<I", content, 14)[0] == 12:  # the oldest header
        width, height, _, bits = struct.unpack_from("<HHHH", content, 18)
        packing = 0
    else:
        width, height, _, bits, packing = struct.unpack_from("<iiHHI", content, 18)
    row = (width * bits + 31) // 32 * 4
    whole = packing not in (0, 3) or offset + row * abs(height) <= len(content)
    return PictureHeader("BMP", width, abs(height), 8, whole)


def without_alpha(content: bytes) -> bytes:
    """Return a TIFF that doesn't say what is beside its colours, so that nothing is blended."""
    for tag, place, numbers in _tiff_tags(content, TIFF_LAYOUTS[content[:4]]):
        if tag == EXTRA_SAMPLES and any(numbers):
            length = 2 * len(numbers)  # SHORT
            return content[:place] + bytes(length) + content[place + length :]
    return content


def _tiff(content: bytes) -> PictureHeader:
    layout = TIFF_LAYOUTS[content[:4]]
    tags = {tag: numbers for tag, _, numbers in _tiff_tags(content, layout)}
    if not {WIDTH, HEIGHT} <= set(tags):
        raise ValueError("it is damaged: the TIFF has no size")
    parts = chain(
        zip(tags.get(STRIPS, ()), tags.get(STRIP_BYTES, ())),
        zip(tags.get(TILES, ()), tags.get(TILE_BYTES, ())),
    )
    whole = all(offset + length <= len(content) for offset, length in parts)
    bits = max(tags.get(BITS, (1,)))
    return PictureHeader("TIFF", tags[WIDTH][0], tags[HEIGHT][0], bits, whole)


def _tiff_tags(content: bytes, layout: TiffLayout) -> Iterator[Tuple[int, int, Tuple[int, ...]]]:
    """Yield the whole numbers in the first directory: tag, where they stand, numbers."""
    (at,) = layout.read(layout.offset, content, layout.directory_at)
    (count,) = layout.read(layout.length, content, at)
    value = struct.calcsize("=HH" + layout.offset)  # where it stands in an entry
    room = struct.calcsize("=" + layout.offset)
    for index in range(min(count, MOST_TIFF_TAGS)):
        entry = at + struct.calcsize("=" + layout.length) + index * (value + room)
        tag, kind, length = layout.read("HH" + layout.offset, content, entry)
        if kind in TIFF_TYPES and 0 < length <= MOST_TIFF_VALUES:
            numbers = f"{length}{TIFF_TYPES[kind]}"
            inside = struct.calcsize("=" + numbers) <= room
            place = entry + value
            place = place if inside else layout.read(layout.offset, content, place)[0]
            yield tag, place, layout.read(numbers, content, place)


def _webp(content: bytes) -> PictureHeader:
    whole = struct.unpack_from("<I", content, 4)[0] + 8 <= len(content)
    kind = content[12:16]
    if kind == b"VP8X":
        sides = (int.from_bytes(content[at : at + 3], "little") + 1 for at in (24, 27))
    elif kind == b"VP8L":
        (packed,) = struct.unpack_from("<I", content, 21)
        sides = ((packed >> shift & 0x3FFF) + 1 for shift in (0, 14))
    else:
        sides = (side & 0x3FFF for side in struct.unpack_from("<HH", content, 26))
    width, height = sides
    return PictureHeader("WebP", width, height, 8, whole)


def _gif(content: bytes) -> PictureHeader:
    width, height, packed = struct.unpack_from("<HHB", content, 6)
    return PictureHeader("GIF", width, height, 8, _gif_is_whole(content, 13 + _colours(packed)))


def _gif_is_whole(content: bytes, at: int) -> bool:
    """Walk over all blocks up to the trailer."""
    while at < len(content):
        kind = content[at : at + 1]
        if kind == GIF_END:
            return True
        if kind == GIF_IMAGE and at + 9 < len(content):
            at += 11 + _colours(content[at + 9])
        elif kind == GIF_EXTENSION:
            at += 2
        else:
            return False
        while at < len(content) and content[at]:
            at += 1 + content[at]
        at += 1
    return False


def _pnm(content: bytes) -> PictureHeader:
    found = PNM.match(content)
    if found is None:
        raise ValueError("it is cut short: its header isn't whole")
    kind, width, height, highest = map(int, found.groups())
    bits = 8 if highest < 256 else 16
    size = width * height * (3 if kind == 6 else 1) * bits // 8
    return PictureHeader("PNM", width, height, bits, found.end() + size <= len(content))


def _colours(packed: int) -> int:
    """Return how many bytes a table of colours takes."""
    return 3 << (packed & 7) + 1 if packed & 0x80 else 0


READERS: Dict[Callable[[bytes], bool], Callable[[bytes], PictureHeader]] = {
    lambda start: start.startswith(PNG_START): _png,
    lambda start: start.startswith(JPEG_START): _jpeg,
    lambda start: start.startswith(b"BM"): _bmp,
    lambda start: start[:4] in TIFF_LAYOUTS: _tiff,
    lambda start: start[:4] == b"RIFF" and start[8:12] == b"WEBP": _webp,
    lambda start: start[:6] in (b"GIF87a", b"GIF89a"): _gif,
    lambda start: start[:2] in (b"P5", b"P6"): _pnm,
}
