from __future__ import annotations

import json
from pathlib import Path

import pytest

from edge_agent.client import Client
from edge_agent.demo.agent_process import AgentProcess
from edge_agent.errors import AgentUnavailable
from tests.conftest import children


def _socket(address: str) -> Path:
    return Path(address[len("unix://") :])


def test_the_agent_runs_inside_the_block_and_only_its_log_is_left_after_it(tmp_path: Path) -> None:
    with AgentProcess(tmp_path, log=tmp_path / "agent.log") as agent:
        with Client(agent.address) as client:
            assert client.models() == []
        assert _socket(agent.address).is_socket()
    agent.check_exit()
    assert not _socket(agent.address).exists()
    lines = (tmp_path / "agent.log").read_text().splitlines()
    said = [json.loads(line)["message"] for line in lines]
    assert any("listens on" in message for message in said)
    assert said[-1] == "Stopped."


def test_the_agent_is_stopped_when_the_block_fails(tmp_path: Path) -> None:
    before = children()
    agent = AgentProcess(tmp_path, log=tmp_path / "log")
    with pytest.raises(KeyboardInterrupt), agent:
        raise KeyboardInterrupt
    assert not _socket(agent.address).exists()
    assert children() == before


def test_an_agent_that_does_not_start_is_an_error_that_names_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGE_AGENT_LOG_LEVEL", "LOUD")
    agent = AgentProcess(tmp_path, log=tmp_path / "agent.log")
    with pytest.raises(AgentUnavailable, match=r"did not start; see its log, .*agent\.log"), agent:
        pass
    with pytest.raises(AgentUnavailable, match="ended with exit code 2"):
        agent.check_exit()
    assert "LOUD" in (tmp_path / "agent.log").read_text()
