"""Journals that outlive a test on purpose: of killed agents, and of disks that refuse."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Iterator, List

import pytest

from edge_agent.runtime.results.spool.journal import journal_locations


def journals(folder: Path) -> List[Path]:
    """Those of outboxes in or below a folder, also of one that could not be made."""
    folders = [folder, folder / "outbox", folder / "state", *folder.rglob("*")]
    found = {place.path for each in folders for place in journal_locations(each)}
    return [journal for journal in found if journal.is_dir()]


@pytest.fixture(autouse=True)
def _journals_go(tmp_path: Path) -> Iterator[None]:
    yield
    for journal in journals(tmp_path):
        shutil.rmtree(journal)
