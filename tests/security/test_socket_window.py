"""The socket's file: nobody else connects in any moment of its life, and no other is touched.

`tests/faults/test_process.py` has the plain cases of what lies at the path already.
"""

from __future__ import annotations

import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Iterator, List, Tuple

import pytest

from tests.fakes.agent import Agent
from tests.faults.test_process import refusal

STRANGER = 61001
CONNECT_ALL_THE_TIME = """
import os, socket, sys
os.setgroups([])
os.setgid({user})
os.setuid({user})
print("ready", flush=True)
seen = {"No such file or directory"}
while True:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        outcome = "connected"
        try:
            probe.connect(sys.argv[1])
        except OSError as error:
            outcome = error.strerror
        if outcome not in seen:
            seen.add(outcome)
            print(outcome, flush=True)
"""

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become another user")


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder like /tmp: everyone may write, nobody may remove another's files."""
    folder = Path(tempfile.mkdtemp(prefix="edge-agent-", dir="/tmp"))
    folder.chmod(0o1777)
    yield folder
    shutil.rmtree(folder)


def as_stranger(script: str, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", script.replace("{user}", str(STRANGER)), *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


@needs_root
@pytest.mark.parametrize("mode", ["0660", "0600"])
def test_a_stranger_that_tries_all_the_time_never_connects(shared: Path, mode: str) -> None:
    """Not between bind and chmod, whatever umask the agent was started with, nor afterwards."""
    before = os.umask(0)
    try:
        stranger = as_stranger(CONNECT_ALL_THE_TIME, str(shared / "agent.sock"))
        assert stranger.stdout is not None
        assert stranger.stdout.readline() == "ready\n"
        agent = Agent(shared, "--set", f"server.socket_mode={mode}")
        with agent, agent.client() as client:
            assert stranger.stdout.readline() == "Permission denied\n"
            client.models()
    finally:
        os.umask(before)
        stranger.kill()
        stranger.wait(20)
    with stranger:
        seen = set(stranger.stdout.read().splitlines())
    assert seen <= {"Connection refused"}  # as the agent ended


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o777])
def test_the_mode_is_what_was_set_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    agent = Agent(tmp_path, "--set", "server.socket_mode=0620")
    (tmp_path / "agent.log").touch()
    before = os.umask(umask)
    try:
        agent.start()
    finally:
        os.umask(before)
    try:
        assert stat.S_IMODE(agent.socket.stat().st_mode) == 0o620
    finally:
        assert agent.stop() == 0


LINKS: List[Tuple[str, str]] = [
    ("to a socket that answers", "other.sock"),
    ("to nothing", "nowhere"),
    ("to itself", "agent.sock"),
    ("to a folder", "."),
    ("to a device", "/dev/null"),
]


@pytest.mark.parametrize(("kind", "target"), LINKS)
def test_a_link_at_the_sockets_path_is_neither_followed_nor_removed(
    tmp_path: Path, kind: str, target: str
) -> None:
    agent = Agent(tmp_path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as other:
        other.bind(str(tmp_path / "other.sock"))
        other.listen()
        agent.socket.symlink_to(target)
        assert str(agent.socket) in refusal(agent)
        assert os.readlink(agent.socket) == target
        assert not (tmp_path / "nowhere").exists()
        assert (tmp_path / "other.sock").is_socket()
        other.setblocking(False)
        with pytest.raises(BlockingIOError):
            other.accept()  # nobody called


@pytest.mark.parametrize("kind", ["fifo", "folder", "device"])
def test_what_else_lies_at_the_sockets_path_stays(tmp_path: Path, kind: str) -> None:
    agent = Agent(tmp_path)
    if kind == "fifo":
        os.mkfifo(agent.socket)
    elif kind == "folder":
        agent.socket.mkdir()
    elif os.geteuid() == 0:
        os.mknod(agent.socket, stat.S_IFCHR | 0o600, os.makedev(1, 3))
    else:
        pytest.skip("needs root to make a device")
    before = agent.socket.lstat()
    assert str(agent.socket) in refusal(agent)
    assert agent.socket.lstat().st_ino == before.st_ino


@needs_root
@pytest.mark.parametrize("answers", [True, False])
def test_a_strangers_socket_that_lives_keeps_the_agent_out_and_is_not_taken(
    shared: Path, answers: bool
) -> None:
    """One that accepts, and one whose queue is full; its owner isn't the agent."""
    script = """
import os, socket, sys
os.setgroups([]); os.setgid({user}); os.setuid({user})
listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
listener.bind(sys.argv[1]); os.chmod(sys.argv[1], 0o777)
listener.listen(int(sys.argv[2]))
held = []
for _ in range(0 if int(sys.argv[2]) else 5):
    held.append(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
    held[-1].setblocking(False)
    try:
        held[-1].connect(sys.argv[1])
    except OSError:
        pass
print("ready", flush=True)
sys.stdin.read()
"""
    agent = Agent(shared)
    command = [sys.executable, "-c", script.replace("{user}", str(STRANGER))]
    with subprocess.Popen(
        [*command, str(agent.socket), "5" if answers else "0"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as stranger:  # fmt: skip
        assert stranger.stdout is not None
        assert stranger.stdout.readline() == "ready\n"
        before = agent.socket.lstat().st_ino
        assert str(agent.socket) in refusal(agent)
        assert agent.socket.lstat().st_ino == before
        stranger.kill()


@pytest.mark.parametrize("what", ["file", "folder", "link"])
def test_an_agent_that_ends_leaves_what_was_put_in_its_sockets_place(
    tmp_path: Path, what: str
) -> None:
    (tmp_path / "precious").write_text("precious")
    with Agent(tmp_path) as agent:
        agent.socket.unlink()
        if what == "file":
            agent.socket.write_text("precious")
        elif what == "folder":
            agent.socket.mkdir()
        else:
            agent.socket.symlink_to(tmp_path / "precious")
        assert agent.stop() == 0
        assert os.path.lexists(agent.socket)
    assert (tmp_path / "precious").read_text() == "precious"
