from __future__ import annotations

from pathlib import Path

from tests.runtime.results.mqtt_sinks import needs_mosquitto
from tests.runtime.results.overflow import LIVE, overflow


@needs_mosquitto
def test_exactly_what_is_announced_is_dropped_and_live_results_go_first(tmp_path: Path) -> None:
    report = overflow(tmp_path, results=20_000, limit_mib=2, drain_per_s=100.0)

    assert report.announced == report.dropped
    assert report.dropped.normal > 10_000
    assert report.dropped.others == 0  # anomalies go last
    assert report.oldest_first
    assert report.arrived == 20_000 + LIVE - report.dropped.normal
    assert report.live_before_backlog
