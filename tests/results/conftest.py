"""Journals that outlive a test on purpose: of killed agents, and of disks that refuse."""

from __future__ import annotations

from pathlib import Path
from typing import Iterator, List

import pytest

from edge_agent.runtime.results.spool.journal import place


def journals(folder: Path) -> List[Path]:
    """Those of outboxes in or below a folder, also of one that could not be made."""
    folders = [folder, folder / "outbox", folder / "state", *folder.rglob("*")]
    return [journal for journal in {place(each) for each in folders} if journal.exists()]


@pytest.fixture(autouse=True)
def _journals_go(tmp_path: Path) -> Iterator[None]:
    yield
    for journal in journals(tmp_path):
        journal.unlink()
