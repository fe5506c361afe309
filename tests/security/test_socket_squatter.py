"""Another user was first at the socket's path: it is named, and nothing of anybody is hurt."""

from __future__ import annotations

import os
import re
import select
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator

import pytest

from edge_agent.errors import InvalidConfiguration
from edge_agent.runtime.rpc import socket_file
from edge_agent.runtime.rpc.socket_file import claim, hand_over
from tests.fakes.agent import Agent

STRANGER, OPERATOR = 61001, 61002
SQUAT = """
import os, socket, sys, time
where, what = sys.argv[1], sys.argv[2]
if os.geteuid() == 0:  # not before: the interpreter may lie where only root can read
    os.setgroups([])
    os.setgid(int(sys.argv[3]))
    os.setuid(int(sys.argv[3]))
if what == "file":
    open(where, "w").close()
elif what == "folder":
    os.mkdir(where)
elif what == "pipe":
    os.mkfifo(where)
elif what == "link":
    os.symlink("/etc/passwd", where)
else:
    kind = socket.SOCK_DGRAM if what == "dgram" else socket.SOCK_STREAM
    listener = socket.socket(socket.AF_UNIX, kind)
    os.umask(0o077 if what == "closed" else 0)
    listener.bind(where)
    if what not in ("dead", "dgram"):
        listener.listen(1 if what == "full" else 50)
    if what == "full":
        waiting = []
        for _ in range(5):
            waiting.append(socket.socket(socket.AF_UNIX))
            waiting[-1].setblocking(False)
            try:
                waiting[-1].connect(where)
            except OSError:
                pass
    if what == "speaks":
        print("there", flush=True)
        while True:
            listener.accept()[0].sendall(b"SSH-2.0-OpenSSH_9.9\\r\\n")
print("there", flush=True)
if what != "dead":
    time.sleep(120)
"""

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become other users")


@pytest.fixture
def sticky() -> Iterator[Path]:
    """A folder like /tmp."""
    folder = Path(tempfile.mkdtemp(prefix="edge-agent-", dir="/tmp"))
    folder.chmod(0o1777)
    yield folder
    shutil.rmtree(folder)


@contextmanager
def squatter(where: Path, what: str, uid: int = STRANGER) -> Iterator[int]:
    """Another user's process that has put `what` there; its id."""
    words = [sys.executable, "-I", "-c", SQUAT, str(where), what, str(uid)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, cwd="/")
    assert process.stdout is not None
    try:
        assert select.select([process.stdout], [], [], 30)[0]
        assert process.stdout.readline() == b"there\n"
        yield process.pid
    finally:
        process.kill()
        process.communicate(timeout=20)


@contextmanager
def acting_as(uid: int) -> Iterator[None]:
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)


def refusal(path: Path) -> str:
    with pytest.raises(InvalidConfiguration) as caught:
        claim(path)
    return str(caught.value)


@needs_root
@pytest.mark.parametrize("what", ["file", "folder", "pipe", "link"])
@pytest.mark.parametrize("me", [0, OPERATOR])
def test_what_isnt_a_socket_is_named_with_its_owner_and_stays(
    sticky: Path, what: str, me: int
) -> None:
    path = sticky / "s"
    with squatter(path, what), acting_as(me):
        said = refusal(path)
        assert "exists and isn't a socket; move it away" in said
        assert f"It is a {what} of user {STRANGER}." in said
        assert "server.socket" in said
        assert "/run/edge-agent/" in said
        assert os.path.lexists(path)


@needs_root
@pytest.mark.parametrize("what", ["listens", "speaks"])
@pytest.mark.parametrize("me", [0, OPERATOR])
def test_who_accepts_and_never_answers_is_named(
    sticky: Path, what: str, me: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket_file, "ANSWERS_WITHIN_S", 0.3)
    path = sticky / "s"
    with squatter(path, what) as pid, acting_as(me):
        said = refusal(path)
        assert f"process {pid} (python" in said
        assert f"of user {STRANGER} accepts connections and doesn't answer as an agent" in said
        assert "/run/edge-agent/" in said
        assert path.is_socket()


@needs_root
@pytest.mark.parametrize("what", ["closed", "full", "dgram"])
def test_a_socket_that_cant_be_asked_is_named_with_its_owner(sticky: Path, what: str) -> None:
    path = sticky / "s"
    with squatter(path, what), acting_as(OPERATOR if what == "closed" else 0):
        said = refusal(path)
        assert "Can't tell whether an agent serves" in said
        assert f"owned by user {STRANGER}" in said
        assert path.is_socket()


@needs_root
def test_another_users_dead_socket_that_cant_be_removed_is_a_sentence(sticky: Path) -> None:
    """It was a traceback: /tmp is sticky."""
    path = sticky / "s"
    with squatter(path, "dead"), acting_as(OPERATOR):
        said = refusal(path)
        assert f"a socket of user {STRANGER} at which nobody listens, can't be removed" in said
        assert "Remove it as that user or as root" in said


@needs_root
def test_root_takes_over_from_a_dead_socket_and_says_whose_it_was(
    sticky: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = sticky / "s"
    with squatter(path, "dead"):
        claim(path)
    assert not path.exists()
    assert f"It belonged to user {STRANGER}." in caplog.text


@needs_root
def test_the_agent_ends_with_the_sentence_and_leaves_the_squatter_alone(sticky: Path) -> None:
    agent = Agent(sticky)
    with squatter(agent.socket, "listens") as pid:
        ended = subprocess.run(
            agent.command(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60, text=True
        )
        assert ended.returncode == 2
        assert f"process {pid}" in ended.stdout
        assert "Traceback" not in ended.stdout
        assert agent.socket.is_socket()


def test_two_agents_of_one_user_name_each_other(tmp_path: Path) -> None:
    with Agent(tmp_path) as agent:
        assert agent.process is not None
        said = refusal(agent.socket)
    assert f"Another agent already serves at {agent.socket}: process {agent.process.pid}" in said


# Between the claim and the bind


@contextmanager
def listening(path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(5)
        yield listener


def test_what_this_process_listens_at_is_handed_over(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with listening(path):
        hand_over(path, -1, -1, 0o620)
    assert stat.S_IMODE(path.stat().st_mode) == 0o620


@pytest.mark.parametrize("what", ["listens", "file", "folder", "link", "dead", "nothing"])
def test_a_socket_replaced_after_the_bind_is_noticed_and_nothing_is_given_away(
    sticky: Path, what: str
) -> None:
    """The mode and the owner were given to whatever the name led to, also through a link."""
    path, victim = sticky / "s", sticky / "victim"
    victim.write_text("mine")
    victim.chmod(0o600)
    with listening(path):
        path.unlink()
        if what == "link":
            path.symlink_to(victim)
        if what in ("link", "nothing"):
            with pytest.raises(InvalidConfiguration, match="while the agent started"):
                hand_over(path, -1, -1, 0o666)
        else:
            with squatter(path, what):
                before = path.lstat()
                with pytest.raises(InvalidConfiguration, match="was replaced while"):
                    hand_over(path, -1, -1, 0o666)
                assert path.lstat().st_mode == before.st_mode
    assert stat.S_IMODE(victim.stat().st_mode) == 0o600


@needs_root
def test_a_folder_in_which_others_may_replace_the_socket_is_warned_of(
    sticky: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for mode, owner, warned in (
        (0o1777, 0, False), (0o777, 0, True), (0o755, 0, False), (0o755, STRANGER, True),
    ):  # fmt: skip
        caplog.clear()
        sticky.chmod(mode)
        os.chown(sticky, owner, 0)
        claim(sticky / "s")
        assert ("may replace sockets" in caplog.text) is warned, (mode, owner)


@needs_root
@pytest.mark.parametrize(
    ("mode", "where", "words"),
    [
        (0o755, "agent.sock", "may not make files in .* mode 0755"),
        (0o700, "inside/agent.sock", "can't be reached by user 61002 .Permission denied."),
        (0o755, "file/agent.sock", "is a file and must be a folder"),
    ],
)
def test_a_folder_that_cant_be_used_is_named_with_what_to_do(
    tmp_path: Path, mode: int, where: str, words: str
) -> None:
    for folder in (tmp_path, *tmp_path.parents[:3]):
        folder.chmod(0o755)
    folder = tmp_path / "folder"
    (folder / "inside").mkdir(parents=True)
    (folder / "file").touch()
    folder.chmod(mode)
    with acting_as(OPERATOR):
        assert re.search(words, refusal(folder / where))
