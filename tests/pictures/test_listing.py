"""One lister for all commands: the same files are pictures everywhere."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edge_agent.client import images
from edge_agent.evaluation.labelled import LabelledImages
from edge_agent.pictures.listing import LeftOut, PictureListing, table

PICTURES = ("a.png", "B.JPG", "c.jfif", "d.GIF", "e.tiff", "f.webp", "sub/g.bmp", "x.png/h.jpeg")
OTHERS = {
    "._a.png": "begins with a dot",
    ".hidden": "begins with a dot",
    "Thumbs.db": "doesn't end as an image's does",
    "i.raw": "doesn't end as an image's does",
    "pipe.png": "isn't a file",
    "gone.png": "can't be opened: No such file",
    "loop.png": "can't be opened: Too many",
    "back": "isn't followed",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "set" / "normal"
    for name in PICTURES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    for name in ("._a.png", "Thumbs.db", "i.raw"):
        (folder / name).write_bytes(b"x")
    (folder / ".hidden").mkdir()
    (folder / ".hidden" / "j.png").write_bytes(b"x")
    os.mkfifo(folder / "pipe.png")
    (folder / "gone.png").symlink_to("nowhere")
    (folder / "loop.png").symlink_to("loop.png")
    (folder / "back").symlink_to(folder.parent)
    return folder


def test_every_command_lists_the_same_pictures(folder: Path) -> None:
    expected = sorted(folder / name for name in PICTURES)
    assert images.find([folder]) == expected
    assert LabelledImages.of(folder.parent).normal == tuple(expected)


def test_what_is_left_out_is_named_with_its_reason(folder: Path) -> None:
    left_out = {item.path.name: item for item in PictureListing.of([folder]).left_out}
    for name, words in OTHERS.items():
        assert words in left_out[name].reason
    pictures = {name for name, item in left_out.items() if item.is_picture}
    assert pictures == {"pipe.png", "gone.png", "loop.png"}


def test_a_link_is_followed_to_a_file_and_where_a_folder_is_named(folder: Path) -> None:
    (folder / "linked.png").symlink_to(folder / "a.png")
    (folder.parent / "link").symlink_to(folder)
    found = PictureListing.of([folder.parent / "link"])
    assert len(found.paths) == len(PICTURES) + 1


def test_the_table_counts_each_reason_and_names_the_first() -> None:
    left_out = [
        LeftOut(Path(name), reason) for name, reason in (("a", "x"), ("b", "y"), ("c", "y"))
    ]
    assert table(left_out) == [
        "3 files are left out:",
        "      2  y (first: b)",
        "      1  x (first: a)",
    ]
    assert table([]) == []
    many = [LeftOut(Path("a"), f"it is {side} pixels wide") for side in range(30)]
    assert len(table(many)) == 22
    assert table(many)[-1] == "     10  for other reasons"
