"""The file of a socket goes or is replaced while the agent serves."""

from __future__ import annotations

import logging
import os
import shutil
import socket
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Callable, Iterator, List

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from edge_agent.client import Client
from edge_agent.config import ServerSettings
from edge_agent.errors import InvalidConfiguration
from edge_agent.runtime.metrics import Metrics
from edge_agent.runtime.rpc import server as server_module
from edge_agent.runtime.rpc import unix_socket
from edge_agent.runtime.rpc.server import Server
from edge_agent.runtime.rpc.socket_file import kept
from edge_agent.runtime.rpc.unix_socket import Access, SocketFolder, UnixSocket
from tests.contract.calls import until


class Models:
    """A detector whose list of models takes until `go` is set."""

    def __init__(self) -> None:
        self.go, self.asked = threading.Event(), threading.Event()
        self.go.set()

    def list(self) -> List[object]:
        self.asked.set()
        assert self.go.wait(60)
        return []


class Served:
    """Servers in this process; `path` is where they listen, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "agent.sock"
        self.models, self.metrics = Models(), Metrics()
        self.server = self.start()

    def start(self) -> Server:
        settings = ServerSettings(socket=f"unix://{self.path}")
        server = Server(settings, self.models, self.metrics)  # type: ignore[arg-type]
        server.listen()
        server.start()
        return server

    def figure(self, name: str) -> float:
        labels = {"socket": str(self.path)}
        return self.metrics.registry.get_sample_value(f"edge_agent_{name}", labels) or 0.0

    def restored(self, times: int) -> bool:
        listens = self.figure("SocketListening") == 1
        return listens and self.figure("SocketRestored_total") == times

    def client(self) -> Client:
        return Client(f"unix://{self.path}", timeout_s=30)


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    monkeypatch.setattr(server_module, "LOOK_EVERY_S", 0.01)
    (tmp_path / "run").mkdir()
    (tmp_path / "run").chmod(0o2751)
    served = Served(tmp_path / "run")
    yield served
    served.server.stop(2.0)
    assert not served.path.is_socket()


def unlink(path: Path) -> None:
    path.unlink()


def replace_by_a_dead_socket(path: Path) -> None:
    path.unlink()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))


def remove_the_folder(path: Path) -> None:
    shutil.rmtree(path.parent)


def rename_the_folder(path: Path) -> None:
    path.parent.rename(path.parent.with_name("elsewhere"))


@pytest.mark.parametrize(
    "lose", [unlink, replace_by_a_dead_socket, remove_the_folder, rename_the_folder]
)
def test_the_agent_listens_anew_and_no_call_of_a_connected_client_fails(
    served: Served, lose: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    mode = served.path.stat().st_mode
    with served.client() as before, served.client() as late:
        assert before.models() == []
        served.models.go.clear()
        served.models.asked.clear()
        answers: List[object] = []
        in_flight = threading.Thread(target=lambda: answers.append(before.models()))
        in_flight.start()
        assert served.models.asked.wait(30)
        lose(served.path)
        until(lambda: served.restored(1))
        served.models.go.set()
        in_flight.join(30)
        assert answers == [[]]
        assert before.models() == late.models() == []
    assert served.path.stat().st_mode == mode
    assert stat.S_IMODE(served.path.parent.stat().st_mode) == 0o2751
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len([record for record in warnings if "listens there again" in record.message]) == 1


def test_what_lies_in_its_place_stays_and_is_said_once_until_it_is_gone(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    with grpc.insecure_channel(f"unix://{served.path}") as channel:
        ask = health_pb2_grpc.HealthStub(channel).Check

        def health() -> int:
            return int(ask(health_pb2.HealthCheckRequest(), timeout=20).status)

        assert health() == health_pb2.HealthCheckResponse.SERVING
        served.path.unlink()
        served.path.write_text("precious")
        until(lambda: health() == health_pb2.HealthCheckResponse.NOT_SERVING)
        assert served.figure("SocketListening") == 0
        until(lambda: [record for record in caplog.records if "isn't a socket" in record.message])
        assert served.path.read_text() == "precious"
        served.path.unlink()
        until(lambda: served.restored(1))
        until(lambda: health() == health_pb2.HealthCheckResponse.SERVING)
    assert len([record for record in caplog.records if record.levelno == logging.ERROR]) == 1


def test_a_file_that_is_moved_away_and_back_is_the_agents_still(served: Served) -> None:
    spare = served.path.with_name("spare")
    served.path.rename(spare)
    until(lambda: served.restored(1))
    spare.rename(served.path)
    with served.client() as client:
        assert client.models() == []
    assert served.restored(1)


def test_a_file_that_goes_again_and_again_leaves_few_servers_and_every_client_is_served(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unix_socket, "MOST_SERVERS", 2)
    monkeypatch.setattr(unix_socket, "DRAIN_S", 0.1)
    with served.client() as first:
        assert first.models() == []
        for times in range(1, 5):
            served.path.unlink()
            until(lambda times=times: served.restored(times))  # type: ignore[misc]
            assert served.path.is_socket()
            with served.client() as fresh:
                assert fresh.models() == []
        until(lambda: first.models() == [])
    assert len(served.server._sockets[0]._bound) == 2


@pytest.fixture
def other(served: Served) -> Iterator[Server]:
    """Another agent, whose file has come into the place of the first one's."""
    settings = ServerSettings(socket=f"unix://{served.path}.other")
    other = Server(settings, Models(), Metrics())  # type: ignore[arg-type]
    other.listen()
    other.start()
    served.path.with_name("agent.sock.other").rename(served.path)
    yield other
    if not other._stopping.is_set():
        other.stop(2.0)


def test_a_path_is_never_taken_from_another_agent_and_taken_back_when_that_has_ended(
    served: Served, other: Server, caplog: pytest.LogCaptureFixture
) -> None:
    facts = served.path.stat()
    until(lambda: "Another agent already serves" in caplog.text)
    assert served.path.stat().st_ino == facts.st_ino
    other.stop(2.0)
    until(lambda: served.restored(1))
    with served.client() as client:
        assert client.models() == []


def test_an_agent_that_ends_leaves_the_socket_of_another_one(
    tmp_path: Path, served: Served, other: Server
) -> None:
    facts = served.path.stat()
    served.server.stop(2.0)
    assert served.path.stat().st_ino == facts.st_ino
    assert [file.name for file in served.path.parent.iterdir() if "other" not in file.name] == [
        "agent.sock"
    ]
    with served.client() as client:
        assert client.models() == []
    other.stop(2.0)
    served.path.unlink()
    served.server = served.start()  # for the fixture


def test_a_folder_that_takes_no_socket_is_named_with_the_reason() -> None:
    def make() -> grpc.Server:
        return grpc.server(ThreadPoolExecutor(1))

    unix = UnixSocket("unix:///proc/agent.sock", Access(-1, -1, 0o660), make)
    with pytest.raises(InvalidConfiguration, match=r"in /proc \(No such file") as caught:
        unix.bind()
    assert "GRPC" not in str(caught.value)


@pytest.fixture
def folder(tmp_path: Path) -> SocketFolder:
    """One that everybody may write, and that is gone."""
    path = tmp_path / "parent" / "run"
    path.mkdir(parents=True)
    path.chmod(0o777)
    folder = SocketFolder(path)
    path.rmdir()
    return folder


def test_a_folder_that_is_swapped_for_a_link_gives_nothing_away(
    folder: SocketFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "victim").mkdir(mode=0o700)
    make = os.mkdir

    def make_and_swap(name: str, mode: int, *, dir_fd: int) -> None:
        make(name, mode, dir_fd=dir_fd)
        os.rmdir(name, dir_fd=dir_fd)
        os.symlink(tmp_path / "victim", name, dir_fd=dir_fd)

    monkeypatch.setattr(os, "mkdir", make_and_swap)
    with pytest.raises(NotADirectoryError):
        folder.make_again()
    assert stat.S_IMODE((tmp_path / "victim").stat().st_mode) == 0o700


@pytest.mark.parametrize("is_made_again", [False, True])
def test_no_folder_is_made_where_its_parent_is_gone_or_another(
    folder: SocketFolder, tmp_path: Path, is_made_again: bool
) -> None:
    (tmp_path / "parent").rename(tmp_path / "elsewhere")
    if is_made_again:
        (tmp_path / "parent").mkdir()
    folder.make_again()
    assert not list(tmp_path.rglob("run"))


def test_a_socket_that_grpc_removes_a_moment_later_is_kept_as_well(tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"
    with socket.socket(socket.AF_UNIX) as another:
        another.bind(str(path))
        removal = threading.Timer(0.02, path.unlink)
        with kept(path):
            removal.start()
        removal.join()
    assert [path] == list(tmp_path.iterdir())


def test_a_leftover_beside_the_socket_takes_nothing_from_its_protection(tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"
    path.with_name(f".agent.sock.{os.getpid()}").write_text("")
    path.write_text("another's")
    with kept(path):
        path.unlink()
    assert path.read_text() == "another's"
    assert len(list(tmp_path.iterdir())) == 2
