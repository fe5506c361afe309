from __future__ import annotations

from pathlib import Path

import pytest

from edge_agent.training.trainer import train
from tests.conftest import made_once
from tests.training import pictures


@pytest.fixture(scope="session")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    def make(folder: Path) -> None:
        pictures.write(folder / "plates", normal=15, anomaly=8)

    return made_once(tmp_path_factory, "parts", make) / "plates"


@pytest.fixture(scope="session")
def package(parts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    def make(out: Path) -> None:
        train(parts, out, normal_only=True, size=pictures.SIZE, progress=lambda _: None)

    return made_once(tmp_path_factory, "plates", make)
