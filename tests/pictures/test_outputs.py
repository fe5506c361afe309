"""Each picture's output has a name of its own and hits no input."""

from __future__ import annotations

import os
from pathlib import Path
from typing import List

import pytest

from edge_agent.errors import InvalidRequest
from edge_agent.pictures.outputs import check_targets, output_names


@pytest.mark.parametrize(
    ("sources", "paths", "names"),
    [
        (["in"], ["in/a.png", "in/day/a.png", "in/day/b.jpg"], ["a.png", "day/a.png", "day/b.png"]),
        (["in"], ["in/a.jpg", "in/a.png", "in/A.PNG"], ["a.png", "a.png.png", "A-2.png"]),
        (
            ["a.jpg", "x/a.bmp", "y/a.bmp"],
            ["a.jpg", "x/a.bmp", "y/a.bmp"],
            ["a.png", "a.bmp.png", "a-2.png"],
        ),
        (["x/1", "x/2"], ["x/1/a.png", "x/2/a.png"], ["1/a.png", "2/a.png"]),
    ],
)
def test_paths_are_kept_and_twins_told_apart(
    sources: List[str], paths: List[str], names: List[str]
) -> None:
    found = output_names([*map(Path, sources)], [*map(Path, paths)], ".png")
    assert list(found.values()) == [*map(Path, names)]


def test_no_link_leads_to_an_input(tmp_path: Path) -> None:
    picture, other = tmp_path / "a.png", tmp_path / "other.png"
    picture.write_bytes(b"x")
    check_targets([other], [picture])
    (tmp_path / "symbolic.png").symlink_to(picture)
    os.link(picture, tmp_path / "hard.png")
    (tmp_path / "folder").symlink_to(tmp_path)
    for target in ("a.png", "symbolic.png", "hard.png", "folder/a.png"):
        with pytest.raises(InvalidRequest, match=r"would be written over .*a\.png"):
            check_targets([other, tmp_path / target], [picture])
