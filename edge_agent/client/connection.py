"""A process's connection to an agent, made again after a fork; and why no agent answers."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path
from typing import Any, Callable, Iterator, List, Optional

import grpc

from edge_agent import errors, protocol
from edge_agent.client import convert
from edge_agent.client.fork_gate import GATE

UNIX = "unix:"
SCHEMES = ("dns:", "ipv4:", "ipv6:", "unix-abstract:", "vsock:")
REACHED_WITHIN_S = 2.0
# As gRPC reads it, when it is imported. Without its handlers nothing of it works in a child.
OUTLIVES_FORK = os.environ.get("GRPC_ENABLE_FORK_SUPPORT", "1").lower() in ("1", "true", "yes")
START_IT = "Start the agent, or correct the address: the agent's log says where it listens."
SPAWN = 'start processes with multiprocessing.get_context("spawn").'

_used_in: List[int] = []  # the process that used gRPC first; a child inherits its number
_inherited: List[object] = []  # channels and calls of the parent, which aren't ended here


class AgentConnection:
    """Owns the channel to the agent at `address`. Raises InvalidRequest for what is no address."""

    def __init__(self, address: str, credentials: Optional[grpc.ChannelCredentials]) -> None:
        self.address = address
        self._credentials = credentials
        self.has_answered = False
        self._is_closed = False
        _check(address)
        self.connect()

    def connect(self) -> None:
        """Make a new channel, which connects at the next call.

        Raises EdgeAgentError in a forked child where gRPC can't work.
        """
        _refuse_where_grpc_cant_work()
        if not _used_in:
            _used_in.append(os.getpid())
        self._pid = os.getpid()
        with GATE.call():
            self._channel = self._made()

    @property
    def channel(self) -> grpc.Channel:
        """The channel of this process. Raises as `connect` and `check_open`."""
        self.check_open()
        if not self.is_here:
            if self._channel not in _inherited:
                _inherited.append(self._channel)
            self.connect()
        return self._channel

    @property
    def is_here(self) -> bool:
        """Whether the channel is this process's own, not that of the one it was forked from."""
        return self._pid == os.getpid()

    def close(self) -> None:
        """End the connection; that of the parent, in a child, stays the parent's."""
        self._is_closed = True
        if self.is_here:
            with GATE.call():
                self._channel.close()

    def check_open(self) -> None:
        """Raise InvalidRequest after `close`, in this process or in the one it was forked from."""
        if self._is_closed:
            raise errors.InvalidRequest(
                f"This client of {self.address} is closed; make another Client, or call it inside "
                "its `with` block."
            )

    def failure(self, error: grpc.RpcError, timeout_s: float) -> errors.EdgeAgentError:
        """Return the error that the agent raised; in our words what gRPC found by itself."""
        found = convert.error(error)
        if not convert.is_of_grpc(error):
            self.has_answered = True
            return found
        if isinstance(found, errors.AgentUnavailable):
            return errors.AgentUnavailable(self.why_unreachable())
        if isinstance(found, errors.DeadlineExceeded):
            return errors.DeadlineExceeded(
                f"No answer from {self.address} within {timeout_s:g} s. The agent is too busy or "
                "out of reach; call again, or allow more time."
            )
        if error.code() is grpc.StatusCode.CANCELLED:
            return errors.AgentUnavailable(
                f"The agent at {self.address} ended the call: it stops, or the call was too slow. "
                "Call again."
            )
        if error.code() is grpc.StatusCode.UNIMPLEMENTED:
            return errors.EdgeAgentError(
                f"What answers at {self.address} isn't this edge agent, or an older one: it "
                "doesn't know the call. Correct the address."
            )
        return found

    def why_unreachable(self) -> str:
        """Return a sentence that says why no agent answers, and what to do."""
        where = f"No agent answers at {self.address}: "
        try:
            if self.address.startswith(UNIX):
                _reach_unix(Path(_path(self.address)))
            else:
                _reach_tcp(self.address)
        except errors.AgentUnavailable as reason:
            return where + str(reason)
        if self.has_answered:
            return (
                f"The agent at {self.address} ended the connection: it stops or was started again. "
                "Call again."
            )
        kind = "without TLS" if self._credentials is None else "with these certificates over TLS"
        return (
            f"{where}what listens there doesn't talk to this client {kind}. If it isn't an agent "
            "that is starting, correct the address, or give a client `credentials` that an agent "
            "with server.tls_certificate needs."
        )

    def _made(self) -> grpc.Channel:
        options = [
            *protocol.MESSAGE_LIMITS,
            ("grpc.use_local_subchannel_pool", 1),  # else a new channel gets the old connection
            ("grpc.enable_http_proxy", 0),  # one of the environment is for the internet
        ]
        if self._credentials is None:
            return grpc.insecure_channel(self.address, options)
        return grpc.secure_channel(self.address, self._credentials, options)


def own_replies(start: Callable[[], grpc.Call]) -> Iterator[Any]:
    """Yield the messages of the call of grpc that `start` makes, and cancel what is left of it.

    Raises InvalidRequest in a child that was forked meanwhile: the call is its parent's.
    """
    opened_by = os.getpid()
    with GATE.call():
        call, stream = start(), GATE.opened()
    if not call.add_callback(lambda: GATE.ended(stream)):
        GATE.ended(stream)
    try:
        for reply in call:
            yield reply
            if os.getpid() != opened_by:
                raise errors.InvalidRequest(
                    f"The stream was opened by process {opened_by}, from which this one was "
                    "forked; its answers go there. Open streams in the process that reads them."
                )
    finally:
        if os.getpid() == opened_by:
            GATE.ends(stream)
            call.cancel()
        else:
            _inherited.append(call)


def _refuse_where_grpc_cant_work() -> None:
    """Raise EdgeAgentError in a child of a process that used gRPC, if that can't work here."""
    if not _used_in or _used_in[0] == os.getpid():
        return
    if not OUTLIVES_FORK:
        raise errors.EdgeAgentError(
            f"Process {os.getpid()} was forked from {_used_in[0]}, which had used gRPC, and "
            "GRPC_ENABLE_FORK_SUPPORT is off: no call can work here. Unset it before Python "
            f"starts, or {SPAWN}"
        )
    if GATE.cut_off:
        raise errors.EdgeAgentError(
            f"Process {os.getpid()} was forked while its parent had a stream open or waited for an "
            "answer: no call can work here. Fork before streams are opened and other threads call, "
            f"or {SPAWN}"
        )


def _path(address: str) -> str:
    plain = address[len(UNIX) :]
    return plain[2:] if plain.startswith("//") else plain


def _check(address: str) -> None:
    """Raise InvalidRequest for what can't be an agent's address."""
    form = "expected unix:///path or host:port."
    if address.startswith(UNIX):
        plain = address[len(UNIX) :]
        if not _path(address) or (plain.startswith("//") and not plain.startswith("///")):
            raise errors.InvalidRequest(
                f"The address is {address!r}; {form} unix:// is followed by an absolute path."
            )
    elif not address.startswith(SCHEMES):
        host, _, port = address.rpartition(":")
        if not host or "/" in host or not port.isdigit() or not 1 <= int(port) <= 65535:
            hint = f" Do you mean unix://{address}?" if address.startswith("/") else ""
            raise errors.InvalidRequest(
                f"The address is {address!r}; {form} A port is 1 to 65535.{hint}"
            )


def _reach_unix(path: Path) -> None:
    """Raise AgentUnavailable, with a reason, unless something listens at `path`."""
    try:
        facts = path.stat()
        if not stat.S_ISSOCK(facts.st_mode):
            raise errors.AgentUnavailable(f"{path} isn't a socket. {START_IT}")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(REACHED_WITHIN_S)
            probe.connect(str(path))
    except FileNotFoundError:
        reason = f"there is no such file. {START_IT}"
    except ConnectionRefusedError:
        reason = "nobody listens at this socket any more. Start the agent."
    except PermissionError:
        reason = (
            f"user {os.geteuid()} may not connect. Become a member of the socket's group, or see "
            "server.socket_group."
        )
    except OSError as error:
        reason = f"{error.strerror or error}. {START_IT}"
    else:
        return
    raise errors.AgentUnavailable(reason)


def _reach_tcp(address: str) -> None:
    """Raise AgentUnavailable, with a reason, unless something listens at `address`."""
    host, _, port = address.rpartition(":")
    host = host.rpartition("/")[2].strip("[]")
    if address.startswith(SCHEMES[3:]) or not port.isdigit():
        return  # not looked into
    try:
        socket.create_connection((host, int(port)), REACHED_WITHIN_S).close()
    except socket.gaierror:
        reason = f"the name {host!r} isn't known here. Correct it, or use an IP address."
    except ConnectionRefusedError:
        reason = f"nobody listens at that port. {START_IT}"
    except socket.timeout:
        reason = f"{host} doesn't answer. Is it switched on, and does a firewall let this through?"
    except (OSError, UnicodeError) as error:
        reason = f"{getattr(error, 'strerror', '') or error}. {START_IT}"
    else:
        return
    raise errors.AgentUnavailable(reason)
