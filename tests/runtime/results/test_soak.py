from __future__ import annotations

from pathlib import Path

import pytest

from tests.runtime.results.mqtt_sinks import needs_mosquitto
from tests.runtime.results.soak import soak


@needs_mosquitto
@pytest.mark.timeout(300)
def test_every_result_arrives_in_order_though_broker_and_agent_are_killed(tmp_path: Path) -> None:
    report = soak(tmp_path, results=3000, broker_kills=3, agent_kills=2)

    assert report.answered >= 3000
    assert report.missing == 0
    assert report.altered == 0  # a duplicate is the same result with the same id
    assert report.overtaken == 0
