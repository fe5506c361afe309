"""Connections that do nothing: neither a camera nor the models' folder may starve."""

from __future__ import annotations

import resource
import socket
import urllib.request
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import List

import grpc
import pytest

from edge_agent.runtime.system import descriptors
from tests.contract.calls import Caller, Segment, plain, until
from tests.fakes import micro
from tests.fakes.agent import Agent
from tests.faults.test_tcp import free_port
from tests.security.http2 import Connection, beginning
from tests.security.raw_http2 import PREFACE, SETTINGS, frame

LIMIT = 1024
IDLE = 2000
MAX_CONCURRENT_STREAMS = 3


class FewDescriptors(Agent):
    """An agent that may have 1,024 descriptors and no more."""

    def command(self) -> List[str]:
        return ["prlimit", f"--nofile={LIMIT}:{LIMIT}", *super().command()]


@pytest.fixture(autouse=True)
def _many_descriptors_here() -> None:
    descriptors.raise_limit()
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > IDLE + 500


def connect(path: Path, says: bytes) -> socket.socket:
    """A connection that says its word and no more; it may wait to be accepted, or be closed."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.setblocking(False)
    with suppress(BlockingIOError, BrokenPipeError, ConnectionResetError):
        connection.connect(str(path))
        connection.send(says)
    return connection


@pytest.mark.parametrize("says", [b"", PREFACE + frame(SETTINGS)])
def test_idle_connections_stop_no_camera_and_no_model(tmp_path: Path, says: bytes) -> None:
    agent = FewDescriptors(tmp_path, "--set", "server.connection_idle_s=6")
    micro.write(agent.models / "cls", "classification")
    picture = plain(255)
    with ExitStack() as stack:
        stack.enter_context(agent)
        agent.run("cls")
        channel = stack.enter_context(agent.channel())
        caller = Caller(channel)
        assert caller.detect("cls", picture).is_anomalous
        for number in range(IDLE):
            if number % 100 == 0:  # a camera at work, whose connection isn't idle
                assert caller.detect("cls", picture).is_anomalous
            stack.enter_context(connect(agent.socket, says))
        assert agent.process is not None
        opened = Path(f"/proc/{agent.process.pid}/fd")
        assert len(list(opened.iterdir())) <= LIMIT - descriptors.FOR_FILES // 2
        for _ in range(20):  # new segments
            with Segment(picture.nbytes) as segment:
                segment.write(picture)
                assert caller.detect("cls", caller.shared(picture, segment)).is_anomalous
        micro.write(agent.models / "late", "classification")
        until(lambda: "late" in [model.model_component for model in caller.list()])
        caller.run("late")
        assert caller.detect("late", picture).is_anomalous
        # They are closed after a while, and others come in.
        until(lambda: len(list(opened.iterdir())) < LIMIT // 2, 60.0)
        with agent.channel() as late:
            assert Caller(late).detect("cls", picture).is_anomalous


def test_a_client_that_rested_for_longer_calls_again_without_an_error(tmp_path: Path) -> None:
    agent = Agent(tmp_path, "--set", "server.connection_idle_s=1")
    micro.write(agent.models / "cls", "classification")
    with agent, agent.channel() as channel:
        agent.run("cls")
        caller = Caller(channel)
        assert agent.process is not None
        opened = Path(f"/proc/{agent.process.pid}/fd")
        assert caller.detect("cls", plain(255)).is_anomalous
        connected = len(list(opened.iterdir()))
        states: List[grpc.ChannelConnectivity] = []
        channel.subscribe(states.append)
        for _ in range(2):
            until(lambda: len(list(opened.iterdir())) < connected)
            # A call in the moment before the client has noticed would fail.
            until(lambda: states[-1] is grpc.ChannelConnectivity.IDLE)
            assert caller.detect("cls", plain(255)).is_anomalous


def test_the_limit_is_raised_at_the_start(tmp_path: Path) -> None:
    class Low(Agent):
        def command(self) -> List[str]:
            return ["prlimit", "--nofile=256:4096", *super().command()]

    with Low(tmp_path) as agent:
        assert agent.process is not None
        limits = Path(f"/proc/{agent.process.pid}/limits").read_text()
    line = next(line for line in limits.splitlines() if line.startswith("Max open files"))
    assert line.split()[3:5] == ["4096", "4096"]


def test_calls_of_one_connection_are_bounded(tmp_path: Path) -> None:
    """The agent announces how many streams it takes (RFC 9113, 6.5.2) and refuses more."""
    with Agent(tmp_path) as agent, Connection(agent.socket) as client:
        client.greet()
        for _ in range(600):
            client.request(beginning(1000), end=False)
        refused = until(client.refused_streams)
        assert client.settings[MAX_CONCURRENT_STREAMS] == 512
        assert len(refused) >= 600 - 512


def test_a_handshake_that_never_comes_is_ended(tmp_path: Path) -> None:
    with Agent(tmp_path) as agent, Connection(agent.socket) as silent:
        silent.settimeout(30.0)
        assert silent.closed_by_peer()


def test_the_metrics_tell(tmp_path: Path) -> None:
    port = free_port()
    with Agent(tmp_path, "--set", f"server.metrics=127.0.0.1:{port}"):
        page = until(lambda: _page(port))
    assert 'edge_agent_Descriptors{kind="used"}' in page
    assert 'edge_agent_Descriptors{kind="limit"}' in page
    assert 'edge_agent_CallBytes{kind="limit"}' in page
    assert 'edge_agent_CallsEnded{reason="slow"} 0.0' in page


def test_idle_connections_to_the_metrics_are_few_and_end(tmp_path: Path) -> None:
    port = free_port()
    with Agent(
        tmp_path, "--set", f"server.metrics=127.0.0.1:{port}"
    ) as agent, ExitStack() as stack:
        assert agent.process is not None
        threads = Path(f"/proc/{agent.process.pid}/task")
        before = len(list(threads.iterdir()))
        for _ in range(200):
            stack.enter_context(socket.create_connection(("127.0.0.1", port), 10.0))
        assert len(list(threads.iterdir())) <= before + 20
        until(lambda: len(list(threads.iterdir())) <= before + 2, 30.0)
        assert until(lambda: _page(port))


def _page(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        page: str = answer.read().decode()
    return page if "edge_agent_Descriptors{" in page else ""


def test_connections_are_as_many_as_the_memory_for_calls_has_room_for(tmp_path: Path) -> None:
    with Agent(tmp_path, "--set", "server.memory_mib=256") as agent, ExitStack() as stack:
        says = PREFACE + frame(SETTINGS)
        crowd = [stack.enter_context(connect(agent.socket, says)) for _ in range(400)]
        until(lambda: sum(map(_is_closed, crowd)) >= 400 - 256)
        assert sum(map(_is_closed, crowd)) < 200  # the others stay


def _is_closed(connection: socket.socket) -> bool:
    """Whether the agent has closed it."""
    try:
        while connection.recv(4096):
            pass
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True
