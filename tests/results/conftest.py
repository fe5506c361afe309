"""Journals that outlive a test on purpose: of killed agents, and of disks that refuse."""

from __future__ import annotations

from typing import Iterator, Set

import pytest

from edge_agent.runtime.results.spool.journal import SHARED_MEMORY


def journals() -> Set[str]:
    return {path.name for path in SHARED_MEMORY.glob("edge-agent-results-*")}


@pytest.fixture(autouse=True)
def _journals_go() -> Iterator[None]:
    before = journals()
    yield
    for name in journals() - before:
        (SHARED_MEMORY / name).unlink()
