from __future__ import annotations

from typing import Dict

import pytest

from edge_agent.benchmark import server_timing


@pytest.mark.parametrize(
    ("header", "stages"),
    [
        ("", {}),
        ("receive;dur=0.10, queue;dur=0.00", {"receive": 0.1, "queue": 0.0}),
        ("a;dur=1,b;dur=2.5", {"a": 1.0, "b": 2.5}),
        ('cache;desc="hit, or ;dur=9";dur=3', {"cache": 3.0}),
        ("miss, total;dur=7", {"total": 7.0}),
        ("a ; DUR = 4", {"a": 4.0}),
        ("nonsense;dur=fast, ;;, ok;dur=1", {"ok": 1.0}),
    ],
)
def test_metrics_with_a_duration_are_read(header: str, stages: Dict[str, float]) -> None:
    assert server_timing.parse(header) == stages
