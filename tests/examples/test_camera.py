"""The camera loops in Python, run as they are beside a real agent."""

from __future__ import annotations

import re

import pytest

from tests.examples.conftest import verdicts
from tests.fakes.agent import Agent


def test_the_loop_over_bytes_judges_every_frame(agent: Agent) -> None:
    assert verdicts("camera_bytes.py", agent) == [
        "frame 0: normal, score 0.000",
        "frame 1: ANOMALY, score 1.000",
        "frame 2: ANOMALY, score 0.502",
    ]


def test_the_loop_over_shared_memory_answers_every_frame_in_order(agent: Agent) -> None:
    lines = verdicts("camera_shared_memory.py", agent)
    assert [line.partition(":")[0] for line in lines] == ["frame 0", "frame 1", "frame 2"]
    assert lines[-1].startswith("frame 2: ANOMALY, score 0.50")  # the newest is never skipped
    assert all(re.search(r"skipped|normal|ANOMALY", line) for line in lines)


@pytest.mark.parametrize("name", ["camera_bytes.py", "camera_shared_memory.py"])
def test_a_loop_says_which_model_is_missing(agent: Agent, name: str) -> None:
    with pytest.raises(AssertionError, match="Model 'nuts' isn't deployed"):
        verdicts(name, agent, model="nuts")
