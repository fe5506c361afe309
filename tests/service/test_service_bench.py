"""`scripts/bench --service` measures what it says; the numbers are another matter."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.service_bench import long_lists
from scripts.service_bench.__main__ import BUSY, figures


def test_every_figure_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(long_lists, "MANY_MODELS", 150)
    monkeypatch.setattr(long_lists, "MANY_ENTRIES", 250)

    found = dict(figures(tmp_path, seconds=0.3, cookies=None))

    assert list(found) == [
        "memory of the idle service",
        "DescribeModel, 1 connections",
        "bare Starlette, 1 connections",
        f"DescribeModel, {BUSY} connections",
        f"bare Starlette, {BUSY} connections",
        "ListModels, 150 models",
        "ListDatasetEntries, 250 entries",
        "memory after these calls",
    ]
    assert found["ListDatasetEntries, 250 entries"].endswith("of 3 pages")
    assert "of 2 pages" in found["ListModels, 150 models"]
