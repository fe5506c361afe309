"""How much memory the agent takes, and that it gives it back."""

from __future__ import annotations

from pathlib import Path
from typing import List

from tests.contract.calls import Caller, Segment, plain
from tests.contract.generations import LAST
from tests.fakes import micro
from tests.fakes.agent import Agent

MIB = 1024 * 1024


def test_an_idle_agent_takes_less_than_120_mib(tmp_path: Path) -> None:
    agent = Agent(tmp_path)
    for count in range(10):
        micro.write(agent.models / f"model-{count}", "classification")
    with agent, agent.channel() as channel:
        assert len(Caller(channel).list()) == 10
        assert agent.resident_bytes() < 120 * MIB


def test_twenty_rounds_of_start_and_stop_end_where_the_first_ended(tmp_path: Path) -> None:
    """Rows 14 and 15; a round that kept the model would add 18 MiB of weights."""
    agent = Agent(tmp_path, "--set", "engine.threads=1")
    content = micro.slow(steps=3, channels=512, stride=8)
    assert len(content) > 18 * MIB
    micro.write(agent.models / "big", "classification", content, runtime={"batch_sizes": [1]})
    frame = plain(255, 320, 240)
    sizes: List[int] = []
    with agent, agent.channel() as channel, Segment(frame.nbytes) as segment:
        caller = Caller(channel)
        segment.write(frame)
        for _ in range(20):
            caller.run("big")
            for bitmap in (caller.bitmap(frame), caller.shared(frame, segment)):
                assert caller.detect("big", bitmap).is_anomalous
            caller.stop("big")
            sizes.append(agent.resident_bytes())
    assert sizes[-1] <= 1.05 * sizes[0], [size // MIB for size in sizes]


def test_a_thousand_calls_take_no_more_memory_than_the_first_hundred(tmp_path: Path) -> None:
    agent = Agent(tmp_path, "--set", "engine.threads=1")
    micro.write(agent.models / "seg", "segmentation")
    frame = plain(255, 160, 120)
    sizes: List[int] = []
    with agent, agent.channel() as channel, Segment(2 * frame.nbytes) as segment:
        agent.run("seg")
        caller = Caller(channel)
        segment.write(frame)
        mask = segment.handle(LAST, frame.nbytes, frame.nbytes)
        for _ in range(10):
            for _ in range(50):
                caller.detect("seg", frame)
                caller.detect("seg", caller.shared(frame, segment), mask)
            sizes.append(agent.resident_bytes())
    assert sizes[-1] <= 1.05 * sizes[0], [size // MIB for size in sizes]


def test_ten_replaced_packages_leave_only_the_last_in_memory(tmp_path: Path) -> None:
    agent = Agent(tmp_path, "--set", "engine.threads=1")
    content = micro.slow(steps=3, channels=512, stride=8)
    once = {"batch_sizes": [1]}
    sizes: List[int] = []
    package = agent.models / "big"
    micro.write(package, "classification", content, runtime=once, version="0")
    with agent, agent.client() as client:
        agent.run("big")
        for version in range(1, 11):
            micro.write(package, "classification", content, runtime=once, version=str(version))
            while client.detect("big", plain(255)).model_version != str(version):
                pass
            sizes.append(agent.resident_bytes())
    # While one version is let go the next is in memory already.
    assert sizes[-1] <= 1.05 * sizes[0] + 20 * MIB, [size // MIB for size in sizes]
