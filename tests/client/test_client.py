"""The Python client against a real agent."""

from __future__ import annotations

from pathlib import Path
from typing import Iterator, List

import numpy as np
import pytest

from edge_agent import types
from edge_agent.client import Client
from edge_agent.errors import (
    AgentUnavailable,
    InvalidFrame,
    ModelNotFound,
    Overloaded,
)
from edge_agent.types import Priority
from tests.contract.calls import plain
from tests.fakes import micro
from tests.fakes.agent import Agent


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    settings = ("--set", "engine.threads=1", "--set", "engine.queue_length=1")
    running = Agent(tmp_path_factory.mktemp("agent"), *settings)
    micro.write(running.models / "map", "anomaly_map")
    once = {"batch_sizes": [1]}
    micro.write(running.models / "slow", "classification", micro.slow(8), runtime=once)
    with running:
        running.run("map")
        running.run("slow")
        yield running


def test_a_stream_answers_every_image_in_order_with_its_mask(agent: Agent) -> None:
    images = [plain(6 * n, 80 + n, 70) for n in range(40)]
    with agent.client() as client:
        answers = list(client.stream("map", images, max_in_flight=1))
    assert [answer.frame_id for answer in answers] == list(range(40))
    for answer, image in zip(answers, images):
        assert answer.prediction is not None, answer.error
        assert answer.prediction.mask is not None
        assert answer.prediction.mask.shape == image.shape
        assert answer.prediction.score == pytest.approx(6 * answer.frame_id / 255, abs=0.01)


def test_a_frame_of_a_stream_that_fails_has_its_own_error(agent: Agent) -> None:
    images = [plain(1), np.zeros((32, 64, 3), np.uint8), plain(2)]
    with agent.client() as client:
        answers = list(client.stream("map", images, max_in_flight=1))
    assert [type(answer.error) for answer in answers] == [type(None), InvalidFrame, type(None)]
    assert "64x32" in str(answers[1].error)


def test_live_video_skips_what_a_newer_frame_overtook(agent: Agent) -> None:
    with agent.client() as client:
        images = [plain(255)] * 20
        answers = list(client.stream("slow", images, max_in_flight=1, newest_frame_wins=True))
    assert [answer.frame_id for answer in answers] == list(range(20))
    skipped = [a for a in answers if a.prediction is None and a.error is None]
    assert answers[0].prediction is not None
    assert answers[-1].prediction is not None
    assert skipped


def test_a_stream_may_be_left_in_the_middle(agent: Agent) -> None:
    with agent.client() as client:
        for answer in client.stream("map", (plain(n % 250) for n in range(10**6))):
            if answer.frame_id == 5:
                break
        assert client.detect("map", plain(255)).is_anomalous


def test_a_wrong_image_is_refused_before_it_is_sent(agent: Agent) -> None:
    gray = np.zeros((64, 64), np.uint8)
    with agent.client() as client, pytest.raises(InvalidFrame, match="expected uint8 RGB"):
        client.detect("map", gray)


def test_a_stream_to_an_unknown_model_says_so_for_every_frame(agent: Agent) -> None:
    with agent.client() as client:
        answers = list(client.stream("no-such", [plain(1), plain(2)]))
    assert [type(answer.error) for answer in answers] == [ModelNotFound] * 2


def test_a_client_gets_through_as_soon_as_the_agent_is_there(tmp_path: Path) -> None:
    agent = Agent(tmp_path)

    def answered(client: Client) -> bool:
        try:
            return client.models() == []
        except AgentUnavailable:
            return False

    with agent.client() as client:
        assert not answered(client)
        for _ in range(2):
            with agent:
                assert answered(client)
            assert not answered(client)


def test_an_overloaded_agent_tells_the_client_when_to_come_back(agent: Agent) -> None:
    refusals: List[Overloaded] = []
    with agent.client() as client:
        client.detect("slow", plain(255))  # so that the agent knows how long a frame takes
        for answer in client.stream("slow", [plain(255)] * 12, max_in_flight=12):
            if isinstance(answer.error, Overloaded):
                refusals.append(answer.error)
    assert refusals
    assert "retry after" in str(refusals[0])


def test_a_client_may_name_its_camera_and_its_priority(agent: Agent) -> None:
    with Client(agent.address, camera_id="left", priority=Priority.RESCORING) as client:
        assert client.detect("map", plain(255)).is_anomalous
    with Client(agent.address, lane=types.Lane.RESCORING) as client:  # as up to version 1.3
        assert client.detect("map", plain(255)).is_anomalous
