from __future__ import annotations

from pathlib import Path

import cv2
import pytest
from rich.console import Console

from edge_agent.cli import main
from edge_agent.demo.package import draw_good_parts
from edge_agent.demo.run import Demo
from edge_agent.runtime.vision import overlay


def test_the_demo_draws_trains_serves_inspects_and_reports(tmp_path: Path) -> None:
    terminal = Console(record=True, width=120, force_terminal=False)
    summary = Demo(tmp_path, parts=3, seed=3, console=terminal, good_parts=10).run()

    printed = terminal.export_text()
    assert printed.count(" ms  right") == summary.right
    assert printed.count(" ms  WRONG") == summary.total - summary.right
    assert summary.total == 3
    assert sum(summary.table[1]) == 1

    pictures = sorted((tmp_path / "overlays").glob("*.png"))
    assert [picture.name[:3] for picture in pictures] == ["001", "002", "003"]
    picture = cv2.imread(str(pictures[0]))[..., ::-1]
    assert picture.shape == (720, 960, 3)
    assert tuple(picture[0, 0]) in (overlay.NORMAL, overlay.ANOMALOUS)

    assert "trained on 10 drawn pictures" in (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "Stopped." in (tmp_path / "agent.log").read_text()


def test_images_of_others_are_never_removed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = tmp_path / "parts" / "normal" / "001.png"
    own.parent.mkdir(parents=True)
    own.write_bytes(b"a year's work")
    assert main(["demo", "--out", str(tmp_path)]) == 2
    assert "holds images that this demo may not have drawn" in capsys.readouterr().err
    assert own.read_bytes() == b"a year's work"
    draw_good_parts(tmp_path / "other", 1, seed=1)
    draw_good_parts(tmp_path / "other", 1, seed=2)  # its own are replaced


def test_a_line_without_parts_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["demo", "--out", str(tmp_path), "--parts", "0"]) == 2
    assert "--parts is 0" in capsys.readouterr().err
