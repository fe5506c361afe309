"""The file of the Unix socket: whose it is before the agent binds it, and after.

Where everybody may make files, as in /tmp, another user can be there first. Such a squatter is
named and never served around: clients would talk to it.
"""

from __future__ import annotations

import logging
import os
import pwd
import secrets
import socket
import stat
import struct
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Iterator, NamedTuple

from edge_agent.errors import InvalidConfiguration
from edge_agent.logs import printable

log = logging.getLogger(__name__)

ANSWERS_WITHIN_S = 2.0
REMOVED_WITHIN_S = 1.0
# RFC 9113: what a client says first, with an empty SETTINGS frame; a server's first is such a frame
GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\x04\0\0\0\0\0"
KIND_AT, SETTINGS = 3, 4
ELSEWHERE = (
    "or set server.socket to a folder that only the agent's user may write, such as "
    "unix:///run/edge-agent/agent.sock"
)


class Peer(NamedTuple):
    """The process that listens at a socket, as the kernel reports it."""

    pid: int
    uid: int

    def __str__(self) -> str:
        """Return words for a sentence."""
        name = "unknown"
        with suppress(OSError):
            name = Path(f"/proc/{self.pid}/comm").read_text(errors="replace").strip()
        return f"process {self.pid} ({printable(name)}) of {user(self.uid)}"


def claim(path: Path) -> None:
    """Make sure nobody serves at `path`; remove the socket file a dead agent left.

    Raises InvalidConfiguration, which names who or what is there.
    """
    _look_at_folder(path)
    try:
        facts = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(facts.st_mode):
        raise InvalidConfiguration(
            f"{path} exists and isn't a socket; move it away, {ELSEWHERE}. It is "
            f"{_kind(facts.st_mode)} of {user(facts.st_uid)}."
        )
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(ANSWERS_WITHIN_S)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            _remove(path, facts)
            return
        except OSError as error:
            raise InvalidConfiguration(
                f"Can't tell whether an agent serves at {path}: {error.strerror or error}. The "
                f"socket is owned by {user(facts.st_uid)}; if nothing uses it, remove it, "
                f"{ELSEWHERE}."
            ) from None
        raise InvalidConfiguration(_occupied(path, probe))


def hand_over(path: Path, owner: int, group: int, mode: int) -> None:
    """Give the socket file its owner, group and mode; -1 keeps the agent's own.

    Raises InvalidConfiguration when it isn't this process that listens there: somebody has put
    another file into its place since it was bound.
    """
    file = _opened(path)
    try:
        # By the descriptor: the name could lead to another file in a moment.
        same = Path(f"/proc/self/fd/{file}")
        os.chown(same, owner, group)
        same.chmod(mode)
    except PermissionError:
        log.warning(
            "%s stays with group %d, and clients of other users can't connect: the agent's user "
            "isn't a member of server.socket_group.",
            path,
            os.fstat(file).st_gid,
        )
    finally:
        os.close(file)


@contextmanager
def kept(path: Path) -> Iterator[None]:
    """Keep what lies at `path` while one server of gRPC ends that has listened there.

    gRPC then removes whatever socket it finds at the path, be it another agent's; on a thread of
    its own, at times a moment later.
    """
    spare = path.with_name(f".{path.name}.{secrets.token_hex(8)}")  # which nobody can take before
    try:
        os.link(path, spare, follow_symlinks=False)
    except OSError:  # nothing there, or a folder, or another user's: nothing to lose
        yield
        return
    try:
        yield
    finally:
        end = time.monotonic() + REMOVED_WITHIN_S
        while path.is_socket() and time.monotonic() < end:
            time.sleep(0.001)
        with suppress(OSError):  # it wasn't removed, or another one lies there already
            os.link(spare, path, follow_symlinks=False)
        with suppress(OSError):
            spare.unlink()


def user(uid: int) -> str:
    """Return words for a user."""
    try:
        return f"user {printable(pwd.getpwuid(uid).pw_name)} ({uid})"
    except KeyError:
        return f"user {uid}"


def _opened(path: Path) -> int:
    """Return a descriptor of the socket file itself, once it is known to be this process's."""
    try:
        file = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise InvalidConfiguration(
            f"{path} was removed while the agent started ({error.strerror}); set server.socket "
            "to a folder that only the agent's user may write."
        ) from None
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(ANSWERS_WITHIN_S)
            probe.connect(f"/proc/self/fd/{file}")
            if _peer(probe).pid == os.getpid():
                return file
            who = f"{_peer(probe)} listens there"
    except OSError as error:
        who = f"it can't be connected to ({error.strerror or error})"
    os.close(file)
    raise InvalidConfiguration(
        f"{path} was replaced while the agent started: {who}. Stop the program that does it, "
        f"{ELSEWHERE}."
    )


def _remove(path: Path, facts: os.stat_result) -> None:
    mine = facts.st_uid == os.geteuid()
    whose = "" if mine else f" It belonged to {user(facts.st_uid)}."
    try:
        path.unlink()
    except FileNotFoundError:
        return
    except OSError as error:
        raise InvalidConfiguration(
            f"{path}, a socket of {user(facts.st_uid)} at which nobody listens, can't be removed: "
            f"{error.strerror}. Remove it as that user or as root, {ELSEWHERE}."
        ) from None
    log.log(
        logging.INFO if mine else logging.WARNING,
        "Replacing %s, left by an agent that has ended.%s",
        path,
        whose,
    )


def _occupied(path: Path, probe: socket.socket) -> str:
    """Name who listens at `path`, to whom `probe` is connected."""
    peer, answer = _peer(probe), b""
    with suppress(OSError):
        probe.sendall(GREETING)
        answer = probe.recv(KIND_AT + 1)
    is_agent = len(answer) > KIND_AT and answer[KIND_AT] == SETTINGS
    if is_agent and peer.uid == os.geteuid():
        return (
            f"Another agent already serves at {path}: {peer}. Stop it, or set server.socket to "
            "another path."
        )
    doing = "serves" if is_agent else "accepts connections and doesn't answer as an agent"
    return (
        f"{path} is taken: {peer} {doing} there, and clients would talk to it. Stop it, "
        f"{ELSEWHERE}."
    )


def _peer(probe: socket.socket) -> Peer:
    size = struct.calcsize("3i")
    credentials = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    pid, uid, _gid = struct.unpack("3i", credentials)
    return Peer(pid, uid)


def _look_at_folder(path: Path) -> None:
    """Refuse a folder the agent can't use; warn where others may replace the agent's socket."""
    folder = path.parent
    try:
        facts = folder.stat()
    except FileNotFoundError:
        raise InvalidConfiguration(
            f"Socket {path}: its folder doesn't exist; create it first."
        ) from None
    except OSError as error:
        raise InvalidConfiguration(
            f"Socket {path}: its folder can't be reached by {user(os.geteuid())} "
            f"({error.strerror}); correct that, {ELSEWHERE}."
        ) from None
    if not stat.S_ISDIR(facts.st_mode):
        raise InvalidConfiguration(
            f"Socket {path}: {folder} is {_kind(facts.st_mode)} and must be a folder; correct "
            "server.socket."
        )
    _look_at_rights(path, folder, facts)


def _look_at_rights(path: Path, folder: Path, facts: os.stat_result) -> None:
    shown = f"{folder} (of {user(facts.st_uid)}, mode {stat.S_IMODE(facts.st_mode):04o})"
    if os.statvfs(folder).f_flag & os.ST_RDONLY:
        raise InvalidConfiguration(
            f"Socket {path}: {folder} is on a file system that is mounted read-only; set "
            "server.socket to a folder that can be written, such as /run/edge-agent."
        )
    if not os.access(folder, os.W_OK | os.X_OK, effective_ids=True):
        raise InvalidConfiguration(
            f"Socket {path}: {user(os.geteuid())} may not make files in {shown}. Give the agent's "
            f"user that right, {ELSEWHERE}."
        )
    is_sticky = bool(facts.st_mode & stat.S_ISVTX)
    if facts.st_uid not in (0, os.geteuid()) or (facts.st_mode & 0o002 and not is_sticky):
        log.warning(
            "Others than the agent may replace sockets in %s, and clients would talk to theirs: "
            "chmod o-w it, %s.",
            shown,
            ELSEWHERE,
        )


def _kind(mode: int) -> str:
    kinds = {stat.S_IFLNK: "a link", stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe"}
    return kinds.get(stat.S_IFMT(mode), "a file")
