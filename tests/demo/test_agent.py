from __future__ import annotations

import json
from pathlib import Path

import pytest

from edge_agent.client import Client
from edge_agent.demo import agent
from edge_agent.errors import AgentUnavailable
from tests.conftest import children


def _socket(address: str) -> Path:
    return Path(address[len("unix://") :])


def test_the_agent_runs_inside_the_block_and_only_its_log_is_left_after_it(tmp_path: Path) -> None:
    with agent.running(tmp_path, tmp_path / "agent.log") as address:
        with Client(address) as client:
            assert client.models() == []
        assert _socket(address).is_socket()
    assert not _socket(address).exists()
    lines = (tmp_path / "agent.log").read_text().splitlines()
    assert "listens on" in json.loads(lines[0])["message"]
    assert json.loads(lines[-1])["message"] == "Stopped."


def test_the_agent_is_stopped_when_the_block_fails(tmp_path: Path) -> None:
    before = children()
    with pytest.raises(KeyboardInterrupt), agent.running(tmp_path, tmp_path / "log") as address:
        raise KeyboardInterrupt
    assert not _socket(address).exists()
    assert children() == before


def test_an_agent_that_does_not_come_up_is_an_error_that_names_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGE_AGENT_LOG_LEVEL", "LOUD")
    with pytest.raises(AgentUnavailable, match=r"agent\.log"), agent.running(
        tmp_path, tmp_path / "agent.log"
    ):
        pass
    assert "LOUD" in (tmp_path / "agent.log").read_text()
