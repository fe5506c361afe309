"""Memory without a ceiling: bodies that never end, answers that nobody reads."""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Iterator, List

import grpc
import pytest

from edge_agent.wire import edge_agent_pb2 as wire
from tests.contract.calls import Caller, Segment, plain, until
from tests.contract.generations import LAST
from tests.fakes import micro
from tests.fakes.agent import Agent
from tests.security.http2 import DETECT, Connection, beginning
from tests.security.raw_http2 import message

MIB = 1024 * 1024
BUDGET_MIB = 256
OVERHEAD_MIB = 100  # beside the budget
LIMIT_S = 2  # for a request to come, and for an answer to be read
LARGEST = 4096
HEALTH = "/grpc.health.v1.Health/Check"
WATCH = "/grpc.health.v1.Health/Watch"
REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
STREAM = "/edge_agent.v1.Inspector/StreamDetect"
LIST = "/AWS.LookoutVision.EdgeAgent/ListModels"


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    settings = (f"server.memory_mib={BUDGET_MIB}", f"server.receive_within_s={LIMIT_S}")
    settings += (f"server.send_within_s={LIMIT_S}", "engine.threads=1")
    agent = Agent(tmp_path, *(part for each in settings for part in ("--set", each)))
    micro.write(agent.models / "seg", "segmentation")
    with agent:
        agent.run("seg")
        yield agent


class Polite:
    """A camera beside the attack: shared memory, one frame after the other."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.answered = 0
        self.failures: List[grpc.RpcError] = []

    def __enter__(self) -> Polite:
        self._thread.start()
        until(lambda: self.answered > 50)  # a camera that has been there for a while
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(60)

    def _run(self) -> None:
        frame = plain(255, 320, 240)
        with self._agent.channel() as channel, Segment(2 * frame.nbytes) as segment:
            caller = Caller(channel)
            segment.write(frame)
            mask = segment.handle(LAST, frame.nbytes, frame.nbytes)
            while not self._stop.wait(0.01):
                try:
                    assert caller.detect("seg", caller.shared(frame, segment), mask).is_anomalous
                    self.answered += 1
                except grpc.RpcError as error:
                    self.failures.append(error)


def peak_mib(agent: Agent, during_s: float) -> int:
    end, peak = time.monotonic() + during_s, 0
    while time.monotonic() < end:
        peak = max(peak, agent.resident_bytes())
        time.sleep(0.02)
    return peak // MIB


def given_back(agent: Agent, before_mib: int) -> None:
    """Wait until the agent is back within 10 % of what it had, and 20 MiB of its heap."""
    until(lambda: agent.resident_bytes() // MIB <= 1.1 * before_mib + 20, 60.0)


def test_answers_that_nobody_reads_are_bounded_and_cut_off(agent: Agent) -> None:
    with ExitStack() as stack:
        polite = stack.enter_context(Polite(agent))
        before = agent.resident_bytes() // MIB
        segment = stack.enter_context(Segment(LARGEST * LARGEST * 3))
        handle = wire.SharedMemoryHandle(name=segment.name, size=LARGEST * LARGEST * 3)
        bitmap = wire.Bitmap(width=LARGEST, height=LARGEST, shared_memory_handle=handle)
        request = wire.DetectAnomaliesRequest(model_component="seg", bitmap=bitmap)
        attacker = stack.enter_context(Connection(agent.socket, receive_bytes=4096))
        attacker.greet()
        for _ in range(100):
            attacker.request(message(request.SerializeToString()))
        answered = polite.answered
        assert peak_mib(agent, 2.0 * LIMIT_S) <= before + BUDGET_MIB + OVERHEAD_MIB
        assert polite.answered > answered
        given_back(agent, before)
    assert polite.failures == []


@pytest.mark.parametrize(
    "path",
    [DETECT, LIST, HEALTH, WATCH, REFLECTION, STREAM],
)
def test_bodies_that_never_end_are_bounded_and_cut_off(agent: Agent, path: str) -> None:
    with ExitStack() as stack:
        polite = stack.enter_context(Polite(agent))
        before = agent.resident_bytes() // MIB
        pouring = [threading.Thread(target=_pour, args=(agent, path, stack)) for _ in range(20)]
        for each in pouring:
            each.start()
        answered = polite.answered
        assert peak_mib(agent, 2.0 * LIMIT_S) <= before + BUDGET_MIB + OVERHEAD_MIB
        assert polite.answered > answered
        if path != STREAM:  # which may wait for its camera's next frame for ever
            given_back(agent, before)
        stack.pop_all().close()
        for each in pouring:
            each.join(60)
        given_back(agent, before)
    assert polite.failures == []


def _pour(agent: Agent, path: str, stack: ExitStack) -> None:
    """Send all but the last MiB of a message, on a connection of its own that stays open."""
    attacker = stack.enter_context(Connection(agent.socket))
    attacker.greet()
    begin = beginning(60 * MIB)
    with suppress(OSError):
        attacker.pour(attacker.request(begin, path, end=False), 59 * MIB, len(begin))


def test_a_caller_beyond_the_budget_is_told_so_at_once(tmp_path: Path) -> None:
    """Frames that wait for a slow model fill the budget; the next is refused, not queued."""
    agent = Agent(tmp_path, "--set", f"server.memory_mib={BUDGET_MIB}", "--set", "engine.threads=1")
    micro.write(agent.models / "slow", "classification", micro.slow(steps=64))
    frame = plain(255, 2048, 2048)  # 12 MiB, and as much for its mask
    with agent, agent.channel() as channel:
        agent.run("slow")
        caller = Caller(channel)
        calls = [caller.detect_later("slow", frame, 60.0) for _ in range(12)]
        refused = until(lambda: [call for call in calls if call.done() and call.exception()], 30.0)
        assert refused[0].code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "server.memory_mib" in refused[0].details()
        answered = [call for call in calls if call not in refused and not call.exception(60)]
        assert answered
        assert caller.detect("slow", frame, timeout=60.0).is_anomalous  # there is room again
