"""Without certificates the agent is heard on this machine only, whatever name TCP is given."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import socket
import subprocess
from pathlib import Path
from typing import List, Set

import grpc
import pytest

from edge_agent.config import load
from edge_agent.errors import AgentUnavailable, InvalidConfiguration
from tests.contract.calls import Caller
from tests.fakes.agent import Agent
from tests.fakes.broker import free_port

LISTENS = "0A"  # in /proc/net/tcp
LOOPBACK = {  # 127.0.0.1, the same as IPv6 has it, and ::1
    "0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000",
}  # fmt: skip

ELSEWHERE = [
    "0.0.0.0", "0", "0x7f000001", "2130706433", "127.1", "127.0.0.2", "127.0.0.1.", "0127.0.0.1",
    "::", "[::]", "[::ffff:127.0.0.1]", "[::ffff:0.0.0.0]", "[::1%lo]", "[::1%eth0]",
    "[fe80::1%eth0]",
    "[0:0:0:0:0:0:0:1]", "localhost.example", "localhost.localdomain", "localhost.", "::1",
    "ip6-localhost", " localhost", "localhost ", "127.0.0.1 ", "\t127.0.0.1",
    "127.0.0.1\n0.0.0.0", "127.0.0.1,0.0.0.0", "127.0.0.1:1", "localhost:1", "user@localhost",
    "//localhost", "dns:localhost", "dns:///localhost", "ipv4:127.0.0.1", "ipv4:0.0.0.0",
    "unix:/tmp/x", "vsock:1", "loc\N{CYRILLIC SMALL LETTER A}lhost",
    "\uff11\uff12\uff17.0.0.1", "1\u06627.0.0.1", "*", "%", "[", "]", "[]",
]  # fmt: skip


@pytest.mark.parametrize("host", ELSEWHERE)
def test_no_other_name_of_a_host_is_taken_without_certificates(host: str) -> None:
    with pytest.raises(InvalidConfiguration, match=r"plaintext only on|Configuration: server\.tcp"):
        load(None, {}, [f"server.tcp={host}:50051"])


@pytest.mark.parametrize("address", [":50051", "", "50051", "localhost", "localhost:", "::50051"])
def test_an_address_without_a_host_or_port_is_refused(address: str) -> None:
    with pytest.raises(InvalidConfiguration):
        load(None, {}, [f"server.tcp={address}"])


def bound(agent: Agent) -> Set[str]:
    """The addresses, in the kernel's own writing, that the agent listens on."""
    assert agent.process is not None
    mine: Set[str] = set()
    for file in Path(f"/proc/{agent.process.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            mine.add(os.readlink(file)[len("socket:[") : -1])
    rows: List[List[str]] = []
    for table in ("tcp", "tcp6"):
        path = Path(f"/proc/{agent.process.pid}/net/{table}")
        rows += (
            [line.split() for line in path.read_text().splitlines()[1:]] if path.exists() else []
        )
    return {row[1].split(":")[0] for row in rows if row[3] == LISTENS and row[9] in mine}


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST", "127.0.0.1", "[::1]"])
def test_what_is_taken_is_bound_to_the_loopback_device_only(tmp_path: Path, host: str) -> None:
    """A name may stand for more than one address; and gRPC reads addresses in its own way."""
    agent = Agent(tmp_path, "--set", f"server.tcp={host}:{free_port()}")
    try:
        agent.start()
    except (AssertionError, AgentUnavailable):
        assert "Can't listen on" in agent.log()
        return
    try:
        assert bound(agent)
        assert bound(agent) <= LOOPBACK
    finally:
        assert agent.stop() == 0


POISONED = """
mount --bind {hosts} /etc/hosts && exec {command}
"""


class Poisoned(Agent):
    """An agent on a machine where "localhost" is an address that others can reach."""

    def command(self) -> List[str]:
        hosts = self.folder / "hosts"
        hosts.write_text(f"{outside()} localhost\n")
        command = " ".join(map(shlex.quote, super().command()))
        script = POISONED.format(hosts=shlex.quote(str(hosts)), command=command)
        return ["unshare", "--mount", "sh", "-c", script]


def outside() -> str:
    """An address of this machine that isn't loopback; found without sending anything."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("this machine has no network besides loopback")
        return str(probe.getsockname()[0])


def may_unshare() -> bool:
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        return False
    trial = ["unshare", "--mount", "mount", "--bind", "/etc/hosts", "/etc/hosts"]
    return subprocess.run(trial, capture_output=True, timeout=20, check=False).returncode == 0


@pytest.mark.parametrize("name", ["localhost", "LocalHost"])
def test_localhost_that_resolves_elsewhere_is_still_loopback(tmp_path: Path, name: str) -> None:
    if not may_unshare():
        pytest.skip("needs a mount namespace of its own, with another /etc/hosts")
    port = free_port()
    with Poisoned(tmp_path, "--set", f"server.tcp={name}:{port}") as agent:
        assert bound(agent)
        assert bound(agent) <= LOOPBACK
        with socket.socket() as stranger, pytest.raises(ConnectionRefusedError):
            stranger.connect((outside(), port))
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            assert list(Caller(channel).list()) == []
