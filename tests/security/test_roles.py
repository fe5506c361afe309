"""Who may start and stop models, when not everybody who may connect."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Iterator, List

import grpc
import pytest

from edge_agent.config import ServerSettings
from tests.contract.calls import Caller, plain
from tests.contract.generations import RUNNING
from tests.fakes import certificates, micro
from tests.fakes.agent import Agent
from tests.faults.test_tcp import free_port

PERMISSION_DENIED = grpc.StatusCode.PERMISSION_DENIED
CLIENT, OPERATORS = 61001, 61002  # a user and a group that nobody has


class Guarded(Agent):
    """Operators have a socket of their own."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.operators = folder / "operators.sock"
        role = f"server.operator_socket=unix://{self.operators}"
        super().__init__(folder, "--set", role, *arguments)
        micro.write(self.models / "cls", "classification")


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Guarded]:
    with Guarded(tmp_path) as agent:
        yield agent


def refused(caller: Caller, address: str) -> bool:
    """Whether neither start nor stop is allowed; the sentence names the way."""
    for method in (caller.start, caller.stop):
        with pytest.raises(grpc.RpcError) as caught:
            method("cls")
        error: grpc.Call = caught.value  # type: ignore[assignment]
        assert error.code() is PERMISSION_DENIED
        assert address in error.details()
    return True


def test_cameras_judge_frames_and_operators_start_and_stop(agent: Guarded) -> None:
    with agent.channel() as cameras, grpc.insecure_channel(f"unix://{agent.operators}") as boss:
        camera, operator = Caller(cameras), Caller(boss)
        assert refused(camera, str(agent.operators))
        operator.run("cls")
        assert camera.detect("cls", plain(255)).is_anomalous
        assert camera.describe("cls").status == RUNNING
        assert [model.model_component for model in camera.list()] == ["cls"]
        assert refused(camera, str(agent.operators))
        assert camera.describe("cls").status == RUNNING
        assert operator.detect("cls", plain(255)).is_anomalous
        operator.stop("cls")


def test_both_sockets_go_with_the_agent(agent: Guarded) -> None:
    assert agent.stop() == 0
    assert not agent.socket.exists()
    assert not agent.operators.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be another user")
def test_a_cameras_user_cannot_open_the_operators_socket() -> None:
    with tempfile.TemporaryDirectory() as folder, Guarded(Path(folder)) as agent:
        agent.folder.chmod(0o755)
        assert tried_by_a_camera(agent) == ["in", "out"]


def tried_by_a_camera(agent: Guarded) -> List[str]:
    """Connect to both sockets as a user of the cameras' group."""
    os.chown(agent.socket, -1, CLIENT)  # as server.socket_group does for a group that exists
    os.chown(agent.operators, -1, OPERATORS)
    program = f"""
import os, socket, sys
os.setgroups([]); os.setgid({CLIENT}); os.setuid({CLIENT})
for path in sys.argv[1:]:
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(path)
            print("in")
        except PermissionError:
            print("out")
"""
    command = [sys.executable, "-c", program, str(agent.socket), str(agent.operators)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()


def test_on_tcp_operators_are_known_by_their_certificates(tmp_path: Path) -> None:
    keys = certificates.every(tmp_path)
    port = free_port()
    settings = {
        "tcp": f"localhost:{port}", "tls_certificate": keys / "server.pem",
        "tls_key": keys / "server.key", "tls_client_ca": keys / "ca.pem",
    }  # fmt: skip
    arguments: List[str] = []
    for name, value in settings.items():
        arguments += ["--set", f"server.{name}={value}"]
    certificates.certificate(keys, "ca", "operator", names="DNS:operator.plant")
    role = '{"operator_certificates": ["operator.plant"]}'
    config = tmp_path / "settings.json"
    config.write_text(f'{{"server": {role}}}')
    agent = Agent(tmp_path, "--config", str(config), *arguments)
    micro.write(agent.models / "cls", "classification")

    def secure(name: str) -> grpc.Channel:
        parts = (keys / "ca.pem", keys / f"{name}.key", keys / f"{name}.pem")
        credentials = grpc.ssl_channel_credentials(*(part.read_bytes() for part in parts))
        return grpc.secure_channel(f"localhost:{port}", credentials)

    with agent, secure("client") as cameras, secure("operator") as boss:
        assert refused(Caller(cameras), "operator's certificate")
        with agent.channel() as local:
            assert refused(Caller(local), "operator's certificate")
        Caller(boss).run("cls")
        assert Caller(cameras).detect("cls", plain(255)).is_anomalous


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"operator_certificates": ("boss",)}, "needs tls_client_ca"),
        ({"operator_socket": "unix:///tmp/a", "socket": "unix:///tmp/a"}, "another path"),
        ({"operator_socket": "unix://relative"}, "absolute path"),
    ],
)
def test_roles_that_cannot_be_are_refused(settings: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ServerSettings(**settings)  # type: ignore[arg-type]
