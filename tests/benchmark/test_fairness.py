from __future__ import annotations

from typing import List

import pytest

from edge_agent.benchmark.results import jain


@pytest.mark.parametrize(
    ("frames", "index"), [([5, 5, 5, 5], 1.0), ([8, 0, 0, 0], 0.25), ([1, 3], 0.8), ([], 1.0)]
)
def test_jains_index(frames: List[int], index: float) -> None:
    assert jain(frames) == pytest.approx(index)
