"""One lister for all commands: the same files are pictures everywhere."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edge_agent.client import images
from edge_agent.evaluation.labelled import LabelledImages
from edge_agent.pictures.listing import LeftOut, Listing, table

PICTURES = ("a.png", "B.JPG", "c.jfif", "d.GIF", "e.tiff", "f.webp", "sub/g.bmp", "x.png/h.jpeg")
OTHERS = {
    "._a.png": "begins with a dot",
    ".hidden": "begins with a dot",
    "Thumbs.db": "doesn't end as an image's does",
    "i.raw": "doesn't end as an image's does",
    "pipe.png": "isn't a file",
    "gone.png": "can't be opened: No such file",
    "loop.png": "can't be opened: Too many",
    "back": "listed already",
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
    left_out = {item.path.name: item for item in Listing.of([folder]).left_out}
    for name, words in OTHERS.items():
        if name != "back":
            assert words in left_out[name].reason
    pictures = {name for name, item in left_out.items() if item.is_picture}
    assert pictures == {"pipe.png", "gone.png", "loop.png"}


def test_a_link_to_a_folder_is_followed_once(folder: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "k.png").write_bytes(b"x")
    (folder / "linked").symlink_to(outside)
    found = Listing.of([folder])
    assert folder / "linked" / "k.png" in found.paths
    names = [path.name for path in found.paths]
    assert len(names) == len(set(names)) == len(PICTURES) + 1
    assert any(OTHERS["back"] in item.reason for item in found.left_out)


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
