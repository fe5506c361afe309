from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Iterator

import pytest

from edge_agent.service.records.database import Records


@pytest.fixture
def records(tmp_path: Path) -> Iterator[Records]:
    with closing(Records(tmp_path / "records.db")) as opened:
        yield opened
