from __future__ import annotations

from pathlib import Path

import pytest

from edge_agent.training.trainer import train
from tests.training import pictures


@pytest.fixture(scope="session")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pictures.write(tmp_path_factory.mktemp("parts") / "plates", normal=15, anomaly=8)


@pytest.fixture(scope="session")
def package(parts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("packages") / "plates"
    train(parts, out, normal_only=True, progress=lambda _: None)
    return out
