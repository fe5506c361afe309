"""Where the agent listens, who may connect, and what becomes of the socket's file."""

from __future__ import annotations

import grp
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Iterator, List

import pytest

from edge_agent.protocol import DEFAULT_SOCKET
from tests.contract.calls import Caller, plain
from tests.contract.generations import RUNNING, SERVICE, STOPPED
from tests.fakes import micro
from tests.fakes.agent import Agent

NOBODY = 65534
LIST_AS_ANOTHER = """
import os, sys
import grpc
def code(address):
    with grpc.insecure_channel(address) as channel:
        try:
            channel.unary_unary(sys.argv[2])(b"", timeout=10)
        except grpc.RpcError as error:
            return error.code().name
        return "OK"
code("unix:///nowhere")  # imports what another user may not be able to read
os.setgroups([int(sys.argv[3])])
os.setgid(65534)
os.setuid(65534)
print(code(sys.argv[1]))
"""


class DefaultAgent(Agent):
    """An agent that is not told where to listen."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.address = DEFAULT_SOCKET
        self.socket = Path(DEFAULT_SOCKET[len("unix://") :])

    def command(self) -> List[str]:
        words = super().command()
        at = words.index("--socket")
        return words[:at] + words[at + 2 :]


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder other users may enter."""
    folder = Path(tempfile.mkdtemp(prefix="edge-agent-", dir="/tmp"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def other_group() -> int:
    mine = {os.getegid(), *os.getgroups()}
    return next(entry.gr_gid for entry in grp.getgrall() if entry.gr_gid not in {*mine, NOBODY})


def test_the_group_of_the_socket_may_call_and_others_may_not(open_folder: Path) -> None:
    """Row 1: the group is ggc_group where it exists, or as set."""
    if os.geteuid() != 0:
        pytest.skip("needs root to become another user")
    group = other_group()
    name = grp.getgrgid(group).gr_name
    with Agent(open_folder, "--set", f"server.socket_group={name}") as agent:
        facts = agent.socket.stat()
        assert stat.S_IMODE(facts.st_mode) == 0o660
        assert facts.st_gid == group
        answers = [
            subprocess.run(
                [sys.executable, "-c", LIST_AS_ANOTHER, agent.address, SERVICE + "ListModels", gid],
                stdout=subprocess.PIPE,
                check=True,
                timeout=60,
            ).stdout.decode()
            for gid in (str(group), str(NOBODY))
        ]
    assert [answer.strip() for answer in answers] == ["OK", "UNAVAILABLE"]


def test_an_agent_told_nothing_listens_at_the_default_address(tmp_path: Path) -> None:
    """Row 1."""
    path = "/tmp/aws.iot.lookoutvision.EdgeAgent.sock"
    if Path(path).exists():
        pytest.skip("another agent uses the default address on this machine")
    agent = DefaultAgent(tmp_path)
    assert agent.address == f"unix://{path}"
    with agent, agent.channel() as channel:
        assert list(Caller(channel).list()) == []
        assert agent.stop() == 0
    assert not Path(path).exists()


def test_an_agent_with_another_address_listens_there_only(tmp_path: Path) -> None:
    """Row 2."""
    with Agent(tmp_path) as agent, agent.channel() as channel:
        assert list(Caller(channel).list()) == []
        assert agent.process is not None
        files = Path(f"/proc/{agent.process.pid}/fd").iterdir()
        mine = {os.readlink(str(file))[len("socket:[") : -1] for file in files}
        table = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()]
        bound = {os.path.normpath(row[7]) for row in table if row[6] in mine and len(row) > 7}
    assert bound == {str(agent.socket)}


def test_a_killed_agent_serves_again_where_it_left_its_socket(tmp_path: Path) -> None:
    """Row 3."""
    agent = Agent(tmp_path)
    micro.write(agent.models / "cls", "classification")
    agent.start()
    agent.run("cls")
    agent.kill()
    assert agent.socket.exists()
    with agent, agent.channel() as channel:
        caller = Caller(channel)
        assert caller.describe("cls").status == STOPPED
        caller.run("cls")
        assert caller.detect("cls", plain(255)).is_anomalous
    assert not agent.socket.exists()


def test_a_termination_with_calls_running_is_quick_and_removes_the_socket(tmp_path: Path) -> None:
    """Row 47; the limit is 15 s, ours 5 s."""
    agent = Agent(tmp_path, "--set", "engine.threads=1")
    micro.write(agent.models / "slow", "classification", micro.slow(), runtime={"batch_sizes": [1]})
    with agent, agent.channel() as channel:
        caller = Caller(channel)
        caller.run("slow")
        calls = [caller.detect_later("slow", plain(255)) for _ in range(6)]
        assert caller.describe("slow").status == RUNNING
        begin = time.monotonic()
        assert agent.stop() == 0
        assert time.monotonic() - begin < 5.0
        assert {call.code().name for call in calls} == {"OK"}
    assert not agent.socket.exists()
