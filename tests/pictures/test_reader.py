"""One reader for all commands: what image files hold, whole or not, in whatever format."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Callable, Dict, List, Tuple

import cv2
import numpy as np
import pytest

from edge_agent.client import images
from edge_agent.errors import InvalidPicture
from edge_agent.pictures.reader import PictureReader
from edge_agent.runtime.vision.picture_headers import read_header
from tests import ROOT

SUFFIXES = (".png", ".jpg", ".jfif", ".bmp", ".tif", ".webp", ".gif", ".ppm")


def part(height: int = 96, width: int = 128) -> np.ndarray:
    """A picture that needs many bytes in every format, red in its upper half."""
    picture = np.random.default_rng(1).integers(0, 256, (height, width, 3)).astype(np.uint8)
    picture[: height // 2] = (250, 10, 10)
    return picture


def file_of(suffix: str, picture: np.ndarray) -> bytes:
    kind = ".jpg" if suffix == ".jfif" else suffix
    return bytes(cv2.imencode(kind, picture[..., ::-1] if picture.ndim == 3 else picture)[1])


def refusal(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    with pytest.raises(InvalidPicture) as caught:
        PictureReader().frame(path)
    assert path.name in str(caught.value)
    return caught.value.reason


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def with_orientation(jpeg: bytes, orientation: int) -> bytes:
    tag = struct.pack(">HHIHH", 0x0112, 3, 1, orientation, 0)
    exif = b"Exif\0\0MM\0*" + struct.pack(">IH", 8, 1) + tag + bytes(4)
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + jpeg[2:]


def png(width: int, height: int) -> bytes:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"0")) + chunk(b"IEND", b"")


def tiff(width: int, height: int, bits: int = 8, data: bytes = b"") -> bytes:
    tags = [
        (256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, bits), (259, 3, 1, 1), (262, 3, 1, 1),
        (273, 4, 1, 122), (277, 3, 1, 1), (278, 4, 1, height), (279, 4, 1, len(data)),
    ]  # fmt: skip
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + data


def tiff_with_alpha(picture: np.ndarray) -> bytes:
    """`picture` (height, width, 4) as a TIFF whose colours aren't multiplied with alpha yet."""
    height, width, _ = picture.shape
    tags = [
        (256, 4, 1, width), (257, 4, 1, height), (258, 3, 4, 134), (259, 3, 1, 1), (262, 3, 1, 2),
        (273, 4, 1, 142), (277, 3, 1, 4), (278, 4, 1, height), (279, 4, 1, picture.size),
        (338, 3, 1, 2),
    ]  # fmt: skip
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    start = b"II*\0" + struct.pack("<IH", 8, len(tags))
    return start + entries + bytes(4) + struct.pack("<4H", *[8] * 4) + picture.tobytes()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_format_is_read_and_a_cut_one_refused(tmp_path: Path, suffix: str) -> None:
    whole = file_of(suffix, part())
    path = tmp_path / f"part{suffix.upper()}"
    path.write_bytes(whole)
    frame = PictureReader().frame(path)
    assert (frame.height, frame.width) == (96, 128)
    assert frame.pixels[4, 4, 0] > 200
    assert frame.pixels[4, 4, 2] < 60
    for length in (0, 9, 30, len(whole) // 2, len(whole) - 1):
        reason = refusal(path, whole[:length])
        assert any(words in reason for words in ("cut short", "empty", "can't be read as an image"))


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".gif"])
def test_what_an_upload_in_progress_left_zero_is_refused(tmp_path: Path, suffix: str) -> None:
    whole = file_of(suffix, part())
    half = len(whole) // 2
    refusal(tmp_path / f"part{suffix}", whole[:half] + bytes(len(whole) - half))


@pytest.mark.parametrize("turned", range(1, 9))
def test_a_jpeg_that_was_closed_too_early_is_refused(tmp_path: Path, turned: int) -> None:
    whole = with_orientation(file_of(".jpg", part()), turned)
    reason = refusal(tmp_path / "part.jpg", whole[: len(whole) // 2] + b"\xff\xd9")
    assert "the end of the JPEG's data is missing" in reason
    grey = tmp_path / "grey.jpg"  # as what is missing looks
    flat = file_of(".jpg", np.full((96, 128, 3), 128, np.uint8))
    grey.write_bytes(with_orientation(flat, turned))
    assert (PictureReader().frame(grey).pixels == 128).all()
    grey.write_bytes(whole + b"what some cameras put after the end")
    assert {*PictureReader().frame(grey).pixels.shape} == {96, 128, 3}


@pytest.mark.parametrize("options", [(), (cv2.IMWRITE_JPEG_RST_INTERVAL, 4)])
@pytest.mark.parametrize("share", [0.3, 0.5, 0.9, 0.97])
def test_it_is_refused_wherever_it_was_cut(
    tmp_path: Path, share: float, options: Tuple[int, ...]
) -> None:
    whole = bytes(cv2.imencode(".jpg", part(101, 157), options)[1])
    reason = refusal(tmp_path / "part.jpg", whole[: int(share * len(whole))] + b"\xff\xd9")
    assert "the end of the JPEG's data is missing" in reason


def test_a_changed_byte_in_a_png_is_found(tmp_path: Path) -> None:
    content = bytearray(file_of(".png", part()))
    content[len(content) // 2] ^= 1
    assert "damaged" in refusal(tmp_path / "part.png", bytes(content))


GIANTS: Dict[str, bytes] = {
    "png": png(60000, 60000),
    "tif": tiff(60000, 60000),
    "bmp": b"BM" + struct.pack("<IIIIiiHHI", 0, 0, 54, 40, 60000, -60000, 1, 24, 1) + bytes(20),
    "ppm": b"P6\n# c\n60000 60000\n255\n",
    "gif": b"GIF89a" + struct.pack("<HH", 60000, 60000) + bytes(3) + b";",
    "webp": b"RIFF" + struct.pack("<I", 22) + b"WEBPVP8X" + bytes(8) + b"\x5f\xea\0\x5f\xea\0",
    "jpg": b"\xff\xd8\xff\xc0\0\x11\x08" + struct.pack(">HH", 60000, 60000) + bytes(12),
}


@pytest.mark.parametrize("suffix", GIANTS)
def test_a_giant_header_is_refused_before_it_is_decoded(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"giant.{suffix}"
    assert "it is 60000x60000 pixels" in refusal(path, GIANTS[suffix])
    with pytest.raises(InvalidPicture, match=r"giant.* 60000x60000 pixels by its header"):
        images.load(path)


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate((256 << 20) + 1)


SPECIAL: Dict[str, Callable[[Path], None]] = {
    "isn't a file": lambda path: os.mkfifo(path),
    "can't be opened: Too many": lambda path: path.symlink_to(path),
    "can't be opened: No such": lambda path: None,
    "more than 256 MiB": sparse,
    "isn't PNG, JPEG, BMP, TIFF, WebP, GIF, PGM": lambda path: path.write_bytes(b"%PDF-1.4" * 9)
    and None,
}


@pytest.mark.parametrize("reason", SPECIAL)
def test_what_is_no_picture_is_refused_at_once_with_the_reason(tmp_path: Path, reason: str) -> None:
    path = tmp_path / "x.png"
    SPECIAL[reason](path)
    with pytest.raises(InvalidPicture, match=reason):
        PictureReader().frame(path)


def test_a_name_that_is_not_utf_8_is_read_and_shown_escaped(tmp_path: Path) -> None:
    name = os.fsdecode(b"teil-\xe4\n\x1b[2J.png")
    path = tmp_path / name
    images.save(path, part())
    assert (images.load(path) == part()).all()
    path.write_bytes(b"")
    with pytest.raises(
        InvalidPicture, match=r"teil-\\xe4\\n\\x1b\[2J\.png can't be used: it is empty"
    ):
        images.load(path)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize(
    ("bits", "channels"), [(8, 3), (10, 1), (12, 1), (12, 3), (12, 4), (16, 1)]
)
def test_16_bits_are_read_by_the_highest_value_of_the_set(
    tmp_path: Path, suffix: str, bits: int, channels: int
) -> None:
    shape = (96, 128, channels) if channels > 1 else (96, 128)
    bright = np.full(shape, 2**bits - 2 ** (bits - 4), np.uint16)
    dark = np.full(shape, 2 ** (bits - 3), np.uint16)
    paths = [tmp_path / f"{name}{suffix}" for name in ("bright", "dark")]
    for path, picture in zip(paths, (bright, dark)):
        path.write_bytes(file_of(suffix, picture))
    reader = PictureReader(paths)
    values = [reader.frame(path).pixels[0, 0].tolist() for path in paths]
    assert values == [[240] * 3, [32] * 3]
    assert f"read as {bits}-bit" in reader.remarks[0]
    assert [images.load(path)[0, 0, 0] for path in reversed(paths)] == [32, 240]  # alone as well
    assert reader.bits == bits


def test_a_depth_that_is_known_is_not_guessed_again(tmp_path: Path) -> None:
    path = tmp_path / "part.png"
    path.write_bytes(file_of(".png", np.full((96, 128), 1016, np.uint16)))
    reader = PictureReader([path], bits=12)
    assert reader.frame(path).pixels[0, 0, 0] == reader.pixels(path)[0, 0, 0] == 63
    (remark,) = reader.remarks
    assert remark.startswith("1 of the images has 16 bits a channel. They are read as 12-bit")
    bright = PictureReader(bits=8)
    assert bright.frame(path).pixels[0, 0, 0] == 255
    assert "0 to 255 becomes 0 to 255, and so does what is above (up to 1016)" in bright.remarks[0]


def test_a_packed_12_bit_tiff_is_as_bright_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "part.tiff"
    path.write_bytes(tiff(64, 64, 12, b"\x80\x08\x00" * 2048))
    assert (images.load(path) == 128).all()


def test_a_big_tiff_is_read(tmp_path: Path) -> None:
    tags = ((256, 64), (257, 64), (258, 8), (259, 1), (262, 1), (273, 212), (277, 1), (278, 64), (279, 4096))  # fmt: skip  # noqa: E501
    entries = b"".join(struct.pack("<HHQQ", tag, 16, 1, value) for tag, value in tags)
    header = b"II+\0" + struct.pack("<HHQQ", 8, 0, 16, len(tags))
    content = header + entries + bytes(8) + b"\x64" * 4096
    path = tmp_path / "part.tif"
    path.write_bytes(content)
    assert (images.load(path) == 100).all()
    assert "cut short" in refusal(path, content[:-1])


def test_no_change_to_a_header_ends_in_anything_but_a_sentence() -> None:
    random = np.random.default_rng(7)
    whole = [*(file_of(suffix, part(64, 64)) for suffix in SUFFIXES), tiff(64, 64, 12, bytes(6144))]
    for number in range(2000):
        content = bytearray(whole[number % len(whole)])
        for at in random.integers(0, 200, 4):
            content[at : at + 4] = random.choice([b"\xff" * 4, bytes(4), random.bytes(4)])
        try:
            read_header(bytes(content[: random.integers(0, len(content))]))
        except ValueError as error:
            assert str(error).startswith("it ")  # noqa: PT017


def test_other_kinds_of_numbers_are_refused_by_name(tmp_path: Path) -> None:
    reason = refusal(tmp_path / "map.tif", file_of(".tif", part().astype(np.float32)))
    assert "expected 8 or 16 bits a channel" in reason


def test_colours_come_out_the_same_however_they_are_stored(tmp_path: Path) -> None:
    grey, alpha = part()[..., 1], np.dstack([part(), np.zeros((96, 128), np.uint8)])
    (tmp_path / "alpha.tif").write_bytes(tiff_with_alpha(alpha))
    assert (images.load(tmp_path / "alpha.tif") == part()).all()
    (tmp_path / "grey.png").write_bytes(file_of(".png", grey))
    assert (images.load(tmp_path / "grey.png") == grey[..., None]).all()
    with_alpha = bytes(cv2.imencode(".png", cv2.cvtColor(alpha, cv2.COLOR_RGBA2BGRA))[1])
    (tmp_path / "alpha.png").write_bytes(with_alpha)
    assert (images.load(tmp_path / "alpha.png") == part()).all()


def test_a_picture_is_turned_upright_as_its_camera_says(tmp_path: Path) -> None:
    (tmp_path / "part.jpg").write_bytes(with_orientation(file_of(".jpg", part()), 6))
    frame = PictureReader().frame(tmp_path / "part.jpg")
    assert (frame.height, frame.width) == (128, 96)
    assert frame.pixels[4, -4, 0] > 200  # the red half is on the right


def test_of_several_pictures_the_first_is_taken(tmp_path: Path) -> None:
    ok, content = cv2.imencodemulti(".tif", [part()[..., ::-1], np.zeros_like(part())])
    (tmp_path / "pages.tif").write_bytes(bytes(content))
    assert ok
    assert (images.load(tmp_path / "pages.tif") == part()).all()


def test_bad_files_leave_standard_error_to_us(tmp_path: Path) -> None:
    """OpenCV's own lines name no file."""
    whole = {suffix: file_of(suffix, part()) for suffix in SUFFIXES}
    bad = {f"part{suffix}": content[: len(content) // 2] for suffix, content in whole.items()}
    for kind in (np.float32, np.int32):
        bad[f"{kind.__name__}.tif"] = file_of(".tif", part().astype(kind))
    bad["closed.jpg"] = whole[".jpg"][:5000] + b"\xff\xd9"
    good = {"more.jpg": whole[".jpg"][:-2] + bytes(20) + b"\xff\xd9"}
    good["grey.jpg"] = file_of(".jpg", np.full((64, 64, 3), 128, np.uint8))
    paths: List[str] = []
    for name, content in {**bad, **good}.items():
        paths.append(str(tmp_path / name))
        Path(paths[-1]).write_bytes(content)
    program = (
        "import sys\nfrom pathlib import Path\n"
        "from edge_agent.pictures.reader import PictureReader\n"
        "reader = PictureReader()\nread = list(reader.frames(map(Path, sys.argv[1:])))\n"
        "reader.pixels(Path(sys.argv[-1]))\n"
        "print(*(path.name for path, _ in read))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *paths],
        cwd=str(ROOT), capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert (done.stdout.strip(), done.stderr) == (" ".join(good), "")
