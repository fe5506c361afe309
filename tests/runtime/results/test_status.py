from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Dict

import pytest

from edge_agent.runtime.results import status
from edge_agent.runtime.results.status import StatusFile


def told(folder: Path) -> Dict[str, Any]:
    content: Dict[str, Any] = json.loads((folder / "status.json").read_text())
    return content


def test_troubles_are_told_at_once_with_when_they_began(tmp_path: Path) -> None:
    shown = StatusFile(tmp_path)

    shown.update("", {"mqtt": ("", 0)})
    shown.update("", {"mqtt": ("no broker", 7)})
    began = told(tmp_path)["sinks"]["mqtt"]
    shown.update("the disk is full", {"mqtt": ("no broker", 9)})

    assert (began["trouble"], began["waiting"]) == ("no broker", 7)
    assert told(tmp_path)["sinks"]["mqtt"] == {**began, "waiting": 9}
    assert told(tmp_path)["outbox"]["trouble"] == "the disk is full"


def test_counts_alone_dont_wear_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = StatusFile(tmp_path)
    shown.update("", {"mqtt": ("", 0)})
    before = told(tmp_path)

    shown.update("", {"mqtt": ("", 5)})
    assert told(tmp_path) == before

    monkeypatch.setattr(status, "COUNTS_EVERY_S", 0.0)
    shown.update("", {"mqtt": ("", 6)})
    assert told(tmp_path)["sinks"]["mqtt"]["waiting"] == 6


def test_a_folder_that_cannot_be_written_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    StatusFile(tmp_path / "file").update("", {}, {"nucleus": "it is away"})
