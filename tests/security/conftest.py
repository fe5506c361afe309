"""One agent for all attacks that it must outlive, and a polite client that it serves meanwhile."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable, Iterator, List

import grpc
import pytest

from tests.contract.calls import Caller, plain
from tests.fakes import micro
from tests.fakes.agent import Agent

MIB = 1024 * 1024


@contextmanager
def running(agent: Agent) -> Iterator[Agent]:
    """Running: cls, seg. It is never restarted, and ends orderly."""
    micro.write(agent.models / "cls", "classification")
    micro.write(agent.models / "seg", "segmentation")
    with agent:
        agent.run("cls")
        agent.run("seg")
        yield agent
        assert agent.process is not None
        assert agent.process.poll() is None, agent.log()
        assert agent.stop() == 0


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    folder = tmp_path_factory.mktemp("agent")
    with running(Agent(folder, "--set", "engine.threads=1")) as agent:
        yield agent


@pytest.fixture
def polite(agent: Agent) -> Iterator[Polite]:
    with agent.channel() as channel:
        yield Polite(agent, channel)


class Polite:
    """Another client: every call of it must be answered right while somebody attacks."""

    def __init__(self, agent: Agent, channel: grpc.Channel) -> None:
        self._agent, self._caller = agent, Caller(channel)
        self.log_bytes = self.peak_bytes = 0  # written and taken during the last attack

    def during(self, attack: Callable[[], Any]) -> Any:
        """Call again and again until `attack` returns, and once more; return what it returned."""
        log_before, before = self._log_bytes(), self._agent.resident_bytes()
        peak = before
        results: List[Any] = []
        faults: List[BaseException] = []

        def run() -> None:
            try:
                results.append(attack())
            except BaseException as error:
                faults.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            while thread.is_alive():
                self.call()
                peak = max(peak, self._agent.resident_bytes())
        finally:
            thread.join()
        if faults:
            raise faults[0]
        self.call()
        self.log_bytes, self.peak_bytes = self._log_bytes() - log_before, peak - before
        return results[0]

    def call(self) -> None:
        assert self._agent.process is not None
        assert self._agent.process.poll() is None, self._agent.log()[-5000:]
        assert self._caller.detect("cls", plain(255)).is_anomalous
        assert not self._caller.detect("seg", plain(51)).is_anomalous

    def _log_bytes(self) -> int:
        return Path(self._agent.folder / "agent.log").stat().st_size
