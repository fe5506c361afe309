"""One agent for all tests of bad input: it must answer the next call, whatever it got before."""

from __future__ import annotations

from typing import Iterator

import grpc
import pytest

from tests.contract.calls import Caller, plain
from tests.fakes import micro
from tests.fakes.agent import Agent


@pytest.fixture(scope="session")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    """Running: cls, seg. It is never restarted, and ends orderly."""
    agent = Agent(tmp_path_factory.mktemp("agent"), "--set", "engine.threads=1")
    micro.write(agent.models / "cls", "classification")
    micro.write(agent.models / "seg", "segmentation")
    with agent:
        agent.run("cls")
        agent.run("seg")
        yield agent
        assert agent.stop() == 0


@pytest.fixture(scope="session")
def channel(agent: Agent) -> Iterator[grpc.Channel]:
    with agent.channel() as channel:
        yield channel


@pytest.fixture
def caller(agent: Agent, channel: grpc.Channel) -> Iterator[Caller]:
    """After each test the same process judges a frame."""
    assert agent.process is not None
    caller = Caller(channel)
    yield caller
    assert agent.process.poll() is None, agent.log()
    assert caller.detect("cls", plain(255)).is_anomalous
    assert not caller.detect("seg", plain(51)).is_anomalous
