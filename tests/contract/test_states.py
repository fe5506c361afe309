"""The life of a model: what each state allows, and what the agent says to the rest."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Iterator

import pytest

from tests.contract import generations
from tests.contract.calls import (
    FAILED_PRECONDITION,
    RESOURCE_EXHAUSTED,
    Caller,
    plain,
    refused,
)
from tests.contract.generations import FAILED, RUNNING, STARTING, STOPPED, STOPPING
from tests.fakes import micro
from tests.fakes.agent import Agent


@pytest.fixture(scope="module")
def caller(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Caller]:
    """Of an agent whose models each test takes through their states and stops again."""
    agent = Agent(tmp_path_factory.mktemp("states"), "--set", "engine.threads=1")
    micro.write(agent.models / "cls", "classification")
    micro.write(agent.models / "slow", "classification", micro.slow(), runtime={"batch_sizes": [1]})
    micro.write(agent.models / "bad", "classification", b"no graph at all")
    with agent, agent.channel() as channel:
        yield Caller(channel)


def test_a_stopped_model_detects_nothing(caller: Caller) -> None:
    """Row 9."""
    details = refused(FAILED_PRECONDITION, caller.detect, "cls", plain(10))
    assert "The model is STOPPED." in details


def test_start_answers_starting_within_a_second(caller: Caller) -> None:
    """Row 10."""
    begin = time.monotonic()
    assert caller.start("slow") == STARTING
    assert time.monotonic() - begin < 1.0
    caller.wait("slow", RUNNING)
    caller.stop("slow")


def test_a_starting_model_becomes_running_and_nothing_else_between(caller: Caller) -> None:
    """Row 11."""
    caller.start("slow")
    seen = []
    while not seen or seen[-1] == STARTING:
        seen.append(caller.describe("slow").status)
    caller.stop("slow")
    assert seen[0] == STARTING
    assert seen[-1] == RUNNING
    assert set(seen) == {STARTING, RUNNING}


def test_a_starting_model_refuses_everything_but_questions(caller: Caller) -> None:
    """Rows 12 and 13, section 2.3."""
    caller.start("slow")
    for call in (caller.start, caller.stop, lambda name: caller.detect(name, plain(10))):
        assert "The model is STARTING." in refused(FAILED_PRECONDITION, call, "slow")
    assert caller.describe("slow").status == STARTING
    caller.wait("slow", RUNNING)
    caller.stop("slow")


def test_a_running_model_refuses_a_second_start(caller: Caller) -> None:
    """Row 12."""
    caller.run("cls")
    assert "The model is RUNNING." in refused(FAILED_PRECONDITION, caller.start, "cls")
    assert caller.detect("cls", plain(255)).is_anomalous  # it runs on all the same
    caller.stop("cls")


def test_a_stopped_model_refuses_a_stop(caller: Caller) -> None:
    """Row 13."""
    assert "The model is STOPPED." in refused(FAILED_PRECONDITION, caller.stop, "cls")


def test_stop_returns_when_the_model_is_stopped(caller: Caller) -> None:
    """Row 14."""
    caller.run("cls")
    assert caller.stop("cls") == STOPPED
    found = caller.describe("cls")
    assert found.status == STOPPED
    assert found.status_message == ""
    refused(FAILED_PRECONDITION, caller.detect, "cls", plain(10))


def test_a_model_starts_and_stops_twenty_times(caller: Caller) -> None:
    """Row 15; its memory is the business of tests/faults/test_memory.py."""
    for _ in range(20):
        caller.run("cls")
        assert caller.detect("cls", plain(255)).is_anomalous
        assert caller.stop("cls") == STOPPED


def test_a_model_that_cannot_load_fails_and_says_why(caller: Caller) -> None:
    """Row 16."""
    assert caller.start("bad") == STARTING
    found = caller.poll("bad", STARTING)
    assert found.status == FAILED
    assert "model.onnx isn't an ONNX file" in found.status_message


def test_a_failed_model_refuses_stop_and_frames_but_may_be_started_again(caller: Caller) -> None:
    """Rows 13 and 16."""
    if caller.describe("bad").status == STOPPED:
        caller.start("bad")
    caller.wait("bad", FAILED)
    assert "The model is FAILED." in refused(FAILED_PRECONDITION, caller.stop, "bad")
    assert "The model is FAILED." in refused(FAILED_PRECONDITION, caller.detect, "bad", plain(9))
    assert caller.start("bad") == STARTING
    assert caller.poll("bad", STARTING).status == FAILED


def test_a_stopping_model_finishes_its_calls_and_refuses_new_ones(caller: Caller) -> None:
    """Section 2.3, row STOPPING; rows 14 and 41."""
    caller.run("slow")
    calls = [caller.detect_later("slow", plain(255)) for _ in range(8)]
    calls[0].result()  # the others are in the agent's hands now
    with ThreadPoolExecutor(1) as pool:
        stopping = pool.submit(caller.stop, "slow")
        assert caller.poll("slow", RUNNING).status == STOPPING
        for call in (caller.start, caller.stop, lambda name: caller.detect(name, plain(10))):
            assert "The model is STOPPING." in refused(FAILED_PRECONDITION, call, "slow")
        assert stopping.result() == STOPPED
    assert all(call.result().detect_anomaly_result.is_anomalous for call in calls)


def test_a_model_that_has_no_room_is_refused_and_the_agent_goes_on(tmp_path: Path) -> None:
    """Row 17."""
    agent = Agent(tmp_path, "--set", "models.memory_limit_mib=1")
    micro.write(agent.models / "cls", "classification")
    with agent, agent.channel() as channel:
        caller = Caller(channel)
        details = refused(RESOURCE_EXHAUSTED, caller.start, "cls")
        assert "MiB" in details
        assert "models.memory_limit_mib" in details
        assert caller.describe("cls").status == generations.STOPPED
