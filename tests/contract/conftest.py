"""One agent with every kind of model, for all tests of the contract that leave it as it was."""

from __future__ import annotations

from typing import Any, Iterator

import grpc
import pytest

from tests.contract.calls import Caller, Segment
from tests.fakes import micro
from tests.fakes.agent import Agent

ARN = "arn:aws:lookoutvision:eu-west-1:123456789012:model/plates/3"


@pytest.fixture(scope="session")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    """Running: cls, seg, heat, strict; low, fifth, one with other thresholds. Stopped: idle."""
    agent = Agent(tmp_path_factory.mktemp("agent"), "--set", "engine.threads=1")
    fast = {"batch_sizes": [4]}
    micro.write(agent.models / "cls", "classification", model_arn=ARN, runtime=fast)
    micro.write(agent.models / "seg", "segmentation")
    micro.write(agent.models / "heat", "anomaly_map")
    micro.write(agent.models / "low", "classification", decision={"threshold": 0.2})
    size = {"tensor": "image", "height": 64, "width": 64, "strict_size": True}
    micro.write(agent.models / "strict", "classification", input=size)
    micro.write(agent.models / "fifth", "segmentation", decision={"threshold": 0.2})
    micro.write(agent.models / "one", "classification", decision={"threshold": 1.0})
    micro.write(agent.models / "idle", "classification")
    with agent:
        for name in ("cls", "seg", "heat", "strict", "low", "fifth", "one"):
            agent.run(name)
        yield agent
        assert agent.stop() == 0


@pytest.fixture(scope="module")
def channel(agent: Agent) -> Iterator[grpc.Channel]:
    with agent.channel() as channel:
        yield channel


@pytest.fixture(scope="module")
def caller(channel: grpc.Channel) -> Caller:
    return Caller(channel)


@pytest.fixture(params=["bytes", "shared_memory"])
def send(request: pytest.FixtureRequest, caller: Caller) -> Iterator[Any]:
    """Detect by one of the two transports: send(model, frame) -> result."""
    if request.param == "bytes":
        yield caller.detect
        return

    with Segment(1) as segment:

        def through_segment(model: str, frame: Any, mask: Any = None) -> Any:
            segment.resize(frame.nbytes)
            segment.write(frame)
            return caller.detect(model, caller.shared(frame, segment), mask)

        yield through_segment
