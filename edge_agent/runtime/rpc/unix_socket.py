"""One Unix socket of the agent: bound, watched, and bound again when its file is gone.

A server of gRPC takes no more addresses once it has started, so a path that is bound again gets a
server of its own. The one that lost its file serves on those who are connected to it.
"""

from __future__ import annotations

import logging
import os
import socket
import stat
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Callable, List, NamedTuple, Optional, Tuple

import grpc

from edge_agent import protocol
from edge_agent.errors import InvalidConfiguration
from edge_agent.runtime.rpc.socket_file import ELSEWHERE, claim, hand_over, kept

log = logging.getLogger(__name__)

# Beyond it the one that lost its file first lets its clients go; they connect to the new one.
MOST_SERVERS = 8
DRAIN_S = 30.0


class Access(NamedTuple):
    """Who may connect: user, group and mode of the file; -1: the agent's own user or group."""

    owner: int
    group: int
    mode: int


Identity = Tuple[int, int]  # of a file: device, inode


class _Bound(NamedTuple):
    server: grpc.Server
    identity: Identity


class UnixSocket:
    """Owns the servers that `make` makes for the path of `address`. Not safe on several threads."""

    def __init__(self, address: str, access: Access, make: Callable[[], grpc.Server]) -> None:
        self.path = Path(address[len(protocol.UNIX_SCHEME) :])
        self._address, self._access, self._make = address, access, make
        self._bound: List[_Bound] = []  # the last one has the file
        self._folder: Optional[SocketFolder] = None
        self._complaint = ""

    def bind(self) -> None:
        """Take the path; callers connect, and wait for `start`. Raises InvalidConfiguration."""
        claim(self.path)
        server = self._make()
        try:
            listen(server, self._address)
            hand_over(self.path, *self._access)
            facts = self.path.stat()
        except Exception:
            with kept(self.path):
                server.start()  # gRPC frees only what was started
                server.stop(None)
            raise
        self._bound.append(_Bound(server, _identity(facts)))
        self._folder = SocketFolder(self.path.parent)

    def start(self) -> None:
        """Answer calls."""
        self._bound[-1].server.start()

    def has_file(self) -> bool:
        """Whether who connects to the path reaches this agent."""
        try:
            facts = self.path.stat()
        except OSError:
            return False
        return _identity(facts) in [bound.identity for bound in self._bound]

    def restore(self) -> bool:
        """Take the path again; False while something stands in the way, which is logged once."""
        try:
            if self._folder is not None:
                self._folder.make_again()
            self.bind()
        except (InvalidConfiguration, OSError) as error:
            self._complain(str(error))
            return False
        self.start()
        self._complaint = ""
        log.warning(
            "The socket file %s was gone or was replaced; the agent listens there again. "
            "Connected clients are served. Find out which program removes the file.",
            self.path,
        )
        while len(self._bound) > MOST_SERVERS:
            with kept(self.path):
                self._bound.pop(0).server.stop(DRAIN_S)
        return True

    def stop(self, within_s: float) -> None:
        """Refuse new calls, and end those in flight after `within_s`. Removes the agent's file."""
        if self.has_file():
            self._stop_all(within_s)
            return
        for bound in self._bound:
            with kept(self.path):
                bound.server.stop(within_s)

    def end(self, within_s: float) -> None:
        """End what is left after `stop`, and wait for that."""
        for stopped in self._stop_all(within_s):
            stopped.wait()
        if self.has_file():
            with suppress(OSError):
                self.path.unlink()

    def _complain(self, why: str) -> None:
        if why == self._complaint:
            return
        self._complaint = why
        log.error(
            "The socket file %s is gone or was replaced: no new client can connect. %s The agent "
            "tries again every second; connected clients are served.",
            self.path,
            why,
        )

    def _stop_all(self, within_s: float) -> List[grpc.Event]:
        return [bound.server.stop(within_s) for bound in self._bound]


class SocketFolder:
    """The folder of a socket, as it was when the socket was bound."""

    def __init__(self, path: Path) -> None:
        self._path, self._before = path, path.stat()
        self._parent = _identity(path.parent.stat())

    def make_again(self) -> None:
        """Make it as it was where it is gone, and nothing else: not its parent, nor in another.

        By descriptors: others who may write in the parent could put a link there. Raises OSError.
        """
        if self._path.exists() or not self._path.parent.exists():
            return
        with ExitStack() as stack:
            parent = os.open(self._path.parent, os.O_PATH | os.O_DIRECTORY)
            stack.callback(os.close, parent)
            if _identity(os.fstat(parent)) != self._parent:
                return
            os.mkdir(self._path.name, 0o700, dir_fd=parent)
            made = os.open(self._path.name, os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
            stack.callback(os.close, made)
            if os.fstat(made).st_uid == os.geteuid():
                os.fchmod(made, stat.S_IMODE(self._before.st_mode))
                with suppress(PermissionError):
                    os.fchown(made, self._before.st_uid, self._before.st_gid)


def _identity(facts: os.stat_result) -> Identity:
    return facts.st_dev, facts.st_ino


def listen(
    server: grpc.Server, address: str, credentials: Optional[grpc.ServerCredentials] = None
) -> None:
    """Add an address to a server. Raises InvalidConfiguration."""
    try:
        if credentials is None:
            server.add_insecure_port(address)
        else:
            server.add_secure_port(address, credentials)
    except RuntimeError:
        raise InvalidConfiguration(f"Can't listen on {address}: {_reason(address)}.") from None


def _reason(address: str) -> str:
    """Return why gRPC, which doesn't say it, can't have an address that seemed free."""
    if not address.startswith(protocol.UNIX_SCHEME):
        return "it was free a moment ago; start the agent again, or choose another address"
    path = Path(address[len(protocol.UNIX_SCHEME) :])
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.bind(str(path))
        path.unlink()
    except OSError as error:
        return (
            f"no socket can be made in {path.parent} ({error.strerror or error}). Correct that, "
            f"{ELSEWHERE}"
        )
    return "the folder took no socket a moment ago; start the agent again"
