"""Model packages that are damaged, unsafe or not of this agent's format.

Every one is FAILED with a sentence that names what is wrong, and leaves the others alone.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any, Tuple

import pytest

from tests.contract.calls import Caller, plain, until
from tests.contract.generations import FAILED, RUNNING, STARTING
from tests.fakes import micro
from tests.fakes.agent import Agent
from tests.faults.packages import CASES, alter, pack_all, zipped


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """`good` runs; packages that do harm are added while it does."""
    agent = Agent(tmp_path_factory.mktemp("packages"), "--set", "models.package_limit_mib=1")
    micro.write(agent.models / "good", "classification")
    with agent:
        agent.run("good")
        yield agent


@pytest.mark.parametrize("case", CASES)
def test_a_package_that_cannot_serve_fails_with_its_reason(agent: Agent, case: str) -> None:
    write, words = CASES[case]
    write(agent.models / case)
    try:
        with agent.channel() as channel:
            caller = Caller(channel)
            until(lambda: case in {model.model_component for model in caller.list()})
            assert caller.start(case) == STARTING
            found = caller.poll(case, STARTING)
            assert found.status == FAILED
            for word in words:
                assert word in found.status_message
            assert caller.describe("good").status == RUNNING
            assert caller.detect("good", plain(255)).is_anomalous
    finally:
        for left in agent.models.glob(f"{case}*"):
            left.rename(agent.folder / f"done-{left.name}")
    assert not list(agent.folder.rglob("evil.txt"))
    assert not Path("/tmp/evil.txt").exists()


def test_a_whole_zip_serves(agent: Agent) -> None:
    """So that the zips above fail for what is wrong with them."""
    zipped(agent.models / "whole", pack_all)
    with agent.channel() as channel:
        caller = Caller(channel)
        until(lambda: "whole" in {model.model_component for model in caller.list()})
        caller.run("whole")
        assert caller.detect("whole", plain(255)).is_anomalous


UNUSABLE = ("altered", "link-out", "model-is-a-fifo", "not-json", "zip-cut-short", "zip-with-link")


@pytest.mark.parametrize("cases", [("nested-too-deeply",), ("zip-damaged",), UNUSABLE], ids=str)
def test_an_agent_starts_with_packages_that_cannot_serve(
    tmp_path: Path, cases: Tuple[str, ...]
) -> None:
    """One bad package on disk must not keep the others from serving after a reboot."""
    agent = Agent(tmp_path, "--autostart")
    for case in cases:
        CASES[case][0](agent.models / case)
    micro.write(agent.models / "good", "classification")
    with agent, agent.channel() as channel:
        caller = Caller(channel)
        caller.wait("good", RUNNING)
        for case in cases:
            caller.wait(case, FAILED)


def test_a_failed_package_that_is_mended_can_be_started(agent: Agent) -> None:
    alter(agent.models / "mended")
    with agent.channel() as channel:
        caller = Caller(channel)
        until(lambda: "mended" in {model.model_component for model in caller.list()})
        caller.start("mended")
        caller.wait("mended", FAILED)
        micro.write(agent.models / "mended", "classification")
        caller.run("mended")
        assert caller.detect("mended", plain(255)).is_anomalous


def test_a_zip_with_any_byte_changed_never_harms_the_agent(agent: Agent) -> None:
    """Twenty damaged copies at once; each is refused, or its damage was in no byte that counts."""
    zipped(agent.folder / "origin", pack_all)
    whole = (agent.folder / "origin.zip").read_bytes()
    generator = random.Random(22)
    names = [f"damaged-{count}" for count in range(20)]
    for name in names:
        content = bytearray(whole)
        for _ in range(3):
            content[generator.randrange(len(content))] = generator.randrange(256)
        (agent.models / f"{name}.zip").write_bytes(bytes(content))
    with agent.channel() as channel:
        caller = Caller(channel)
        listed = {*names, "good"}
        until(lambda: listed <= {model.model_component for model in caller.list()})
        for name in names:
            caller.start(name)
            found = caller.poll(name, STARTING)
            assert found.status in (FAILED, RUNNING)
            assert "Unexpected" not in found.status_message
        assert caller.detect("good", plain(255)).is_anomalous
