from __future__ import annotations

from typing import Iterator

import grpc
import pytest

from tests.fakes import micro
from tests.fakes.agent import Agent


@pytest.fixture(scope="package")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    """An agent with one unit of one thread a model; cls, map and slow run."""
    agent = Agent(tmp_path_factory.mktemp("inspector"), "--set", "engine.threads=1")
    micro.write(agent.models / "cls", "classification")
    micro.write(agent.models / "map", "anomaly_map")
    once = {"batch_sizes": [1]}
    micro.write(agent.models / "slow", "classification", micro.slow(8), runtime=once)
    with agent:
        for name in ("cls", "map", "slow"):
            agent.run(name)
        yield agent


@pytest.fixture
def channel(agent: Agent) -> Iterator[grpc.Channel]:
    with agent.channel() as channel:
        yield channel
