"""Many calls at once: nothing is mixed up, overload is told at once, ends are orderly."""

from __future__ import annotations

import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Dict, Iterator, List

import grpc
import pytest

from tests.contract.calls import (
    FAILED_PRECONDITION,
    OK,
    RESOURCE_EXHAUSTED,
    Caller,
    Segment,
    plain,
    refused,
    until,
)
from tests.contract.generations import RUNNING, STOPPED
from tests.fakes import micro
from tests.fakes.agent import Agent

FLOOD = 40


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    """An agent with room for two waiting frames; `slow` and `cls` run."""
    settings = ("--set", "engine.queue_length=2", "--set", "engine.threads=1")
    agent = Agent(tmp_path_factory.mktemp("small"), *settings)
    micro.write(
        agent.models / "slow", "classification", micro.slow(32), runtime={"batch_sizes": [1]}
    )
    micro.write(agent.models / "cls", "classification")
    with agent:
        agent.run("slow")
        agent.run("cls")
        yield agent


@pytest.fixture
def busy(small: Agent) -> Iterator[Caller]:
    """A caller of that agent with a channel of its own."""
    with small.channel() as channel:
        yield Caller(channel)


def codes(calls: List[Any]) -> List[grpc.StatusCode]:
    return [call.code() for call in calls]


@pytest.mark.parametrize("transport", ["bytes", "shared_memory"])
def test_eight_threads_get_each_their_own_answers(agent: Agent, transport: str) -> None:
    """Row 38."""

    def judge(thread: int) -> None:
        width, height = 64 + 8 * thread, 200 - 8 * thread
        frame = plain(255, width, height)
        frame[: height // 2, :, 0] = 10 * thread
        with agent.channel() as channel, Segment(frame.nbytes) as segment:
            caller = Caller(channel)
            segment.write(frame)
            bitmap = frame if transport == "bytes" else caller.shared(frame, segment)
            expected = caller.detect("cls", bitmap), caller.detect("seg", bitmap)
            assert expected[0].anomaly_score == pytest.approx(0.5 + 5 * thread / 255, abs=0.01)
            assert expected[1].anomaly_mask.width == width
            for count in range(50):
                assert caller.detect("cls", bitmap) == expected[0], count
                if count % 5 == 0:
                    assert caller.detect("seg", bitmap) == expected[1], count

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(judge, range(8)))


def test_eight_threads_on_a_short_queue_get_an_answer_or_exhaustion(small: Agent) -> None:
    """Row 38."""

    def judge(thread: int) -> List[grpc.StatusCode]:
        frame = plain(30 * thread)
        found = []
        with small.channel() as channel:
            caller = Caller(channel)
            for _ in range(50):
                call = caller.detect_later("cls", frame)
                found.append(call.code())
                if found[-1] is OK:
                    score = call.result().detect_anomaly_result.anomaly_score
                    assert score == pytest.approx(30 * thread / 255, abs=1e-5)
        return found

    with ThreadPoolExecutor(8) as pool:
        results = [code for found in pool.map(judge, range(8)) for code in found]
    assert len(results) == 400
    assert OK in results
    assert set(results) <= {OK, RESOURCE_EXHAUSTED}


def test_a_flood_is_refused_at_once_and_questions_are_answered(small: Agent, busy: Caller) -> None:
    """Row 39."""
    ended: Dict[int, float] = {}
    begin = time.monotonic()
    calls = [busy.detect_later("slow", plain(255)) for _ in range(FLOOD)]
    for index, call in enumerate(calls):
        call.add_done_callback(lambda _, index=index: ended.setdefault(index, time.monotonic()))
    asked_s = []
    with small.channel() as channel:
        asking = Caller(channel)
        while not all(call.done() for call in calls):
            asked = time.monotonic()
            assert asking.describe("slow").status == RUNNING
            asked_s.append(time.monotonic() - asked)
    found = codes(calls)
    assert set(found) == {OK, RESOURCE_EXHAUSTED}
    assert 2 <= found.count(OK) < FLOOD
    refused_calls = [index for index, code in enumerate(found) if code is RESOURCE_EXHAUSTED]
    assert "can't keep up with the rate of calls" in calls[refused_calls[0]].details()
    last_answer = max(ended[index] for index in range(FLOOD) if found[index] is OK)
    assert statistics.median(ended[index] for index in refused_calls) < last_answer
    assert statistics.median(ended[index] - begin for index in refused_calls) < 0.5
    assert statistics.median(asked_s) < 0.1


def test_after_a_flood_the_next_call_is_answered(busy: Caller) -> None:
    calls = [busy.detect_later("slow", plain(255)) for _ in range(FLOOD)]
    codes(calls)
    assert busy.detect("slow", plain(255)).is_anomalous


def test_a_busy_model_does_not_hold_up_another(busy: Caller) -> None:
    """Section 1, row 21: calls to one model are serialised, several models run at once."""
    calls = [busy.detect_later("slow", plain(255)) for _ in range(2)]
    assert busy.detect("cls", plain(255)).is_anomalous
    assert not all(call.done() for call in calls)
    assert codes(calls) == [OK] * 2


def test_a_call_in_flight_ends_when_its_model_is_stopped(busy: Caller) -> None:
    """Row 41."""
    calls = [busy.detect_later("slow", plain(255)) for _ in range(2)]
    assert busy.stop("slow") == STOPPED
    assert set(codes(calls)) <= {OK, FAILED_PRECONDITION}
    assert busy.describe("slow").status == STOPPED
    busy.run("slow")
    assert busy.detect("slow", plain(255)).is_anomalous


def test_calls_that_a_stop_does_not_wait_for_end_with_the_state(tmp_path: Path) -> None:
    """Row 41, where draining has a short limit: still 0 or 9."""
    settings = ("--set", "models.drain_within_s=0", "--set", "engine.threads=1")
    agent = Agent(tmp_path, *settings)
    micro.write(
        agent.models / "slow", "classification", micro.slow(32), runtime={"batch_sizes": [1]}
    )
    with agent, agent.channel() as channel:
        caller = Caller(channel)
        caller.run("slow")
        calls = [caller.detect_later("slow", plain(255)) for _ in range(6)]
        calls[0].result()
        assert caller.stop("slow") == STOPPED
        assert set(codes(calls)) == {OK, FAILED_PRECONDITION}
        caller.run("slow")
        assert caller.detect("slow", plain(255)).is_anomalous


def test_a_cancelled_call_does_no_harm(busy: Caller) -> None:
    """Row 42."""
    calls = [busy.detect_later("slow", plain(255)) for _ in range(2)]
    for call in calls:
        call.cancel()
    assert codes(calls) == [grpc.StatusCode.CANCELLED] * 2
    assert busy.detect("cls", plain(255)).is_anomalous
    busy.stop("slow")  # waits for what the agent still computes
    busy.run("slow")
    assert busy.detect("slow", plain(255)).is_anomalous


def test_a_deadline_that_passes_does_no_harm(busy: Caller) -> None:
    """Row 42."""
    first = busy.detect_later("slow", plain(255))
    late = busy.detect_later("slow", plain(255), timeout=0.02)
    assert late.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert first.code() is OK
    assert busy.detect("slow", plain(255)).is_anomalous


def test_a_client_that_hangs_up_does_no_harm(small: Agent, busy: Caller) -> None:
    """Row 42."""
    with small.channel() as channel:
        going = Caller(channel)
        calls = [going.detect_later("slow", plain(255)) for _ in range(2)]
        going.describe("slow")  # the frames are with the agent by now
    assert codes(calls) == [grpc.StatusCode.CANCELLED] * 2
    busy.stop("slow")
    busy.run("slow")
    assert busy.detect("slow", plain(255)).is_anomalous


def test_a_stop_goes_on_when_its_caller_gives_up(busy: Caller) -> None:
    calls = [busy.detect_later("slow", plain(255)) for _ in range(6)]
    # A refusal tells that the queue is full: there is something to wait for.
    until(lambda: any(call.done() and call.code() is RESOURCE_EXHAUSTED for call in calls))
    request = busy.messages.StopModelRequest(model_component="slow")
    with pytest.raises(grpc.RpcError) as caught:
        busy.stub.StopModel(request, timeout=0.02)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    busy.wait("slow", STOPPED)
    assert set(codes(calls)) <= {OK, FAILED_PRECONDITION, RESOURCE_EXHAUSTED}
    refused(FAILED_PRECONDITION, busy.stop, "slow")
    busy.run("slow")
