"""The gRPC server: where it listens, who may connect, message limits, health, reflection, stop."""

from __future__ import annotations

import grp
import logging
import os
import pwd
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional, Tuple

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from edge_agent import protocol
from edge_agent.config import ServerSettings
from edge_agent.errors import InvalidConfiguration
from edge_agent.runtime.detector import Detector
from edge_agent.runtime.metrics import Metrics
from edge_agent.runtime.rpc.admission import Admission, CallFigures
from edge_agent.runtime.rpc.handler_threads import HandlerThreads
from edge_agent.runtime.rpc.roles import Role
from edge_agent.runtime.rpc.servicer import Servicer
from edge_agent.runtime.rpc.socket_file import claim, hand_over
from edge_agent.runtime.system import descriptors, resources
from edge_agent.types import ModelInfo, ModelState

log = logging.getLogger(__name__)

MIB = 1024 * 1024
OWN = -1  # for chown(2): the agent's own user or group
FLUSH_S = 0.1  # for messages that are written to leave
CALLS_AT_ONCE = 2048  # more than wait for all models together; beyond it gRPC refuses
CALLS_PER_CONNECTION = 512  # beyond it a client's own library holds calls back
CALLS_PENDING = 8192
WINDOW_BYTES = 1024 * 1024
HANDSHAKE_WITHIN_S = 10.0
# grpcio before 1.84 looks at the limit only after inflating: 1 MiB becomes 1 GiB.
INFLATES_BOUNDED = (1, 84)
ONLY_PLAIN = 1 << 0  # the bit of "identity" among gRPC's compression algorithms
KEEPALIVE_EVERY_S, KEEPALIVE_WITHIN_S = 60.0, 20.0  # pings, and their answers


class SocketFile(NamedTuple):
    """A socket's file as it was made; another one may lie in its place later."""

    path: Path
    device: int
    inode: int


class Server:
    """Serves on a Unix socket; when asked for, on TCP and on a socket for operators."""

    def __init__(self, settings: ServerSettings, detector: Detector, metrics: Metrics) -> None:
        self._settings = settings
        self._threads = HandlerThreads(CALLS_AT_ONCE)
        limit_bytes = MIB * settings.memory_mib if settings.memory_mib else _memory_share()
        self._admission = Admission(limit_bytes, settings.receive_within_s, settings.send_within_s)
        # A watcher that reads nothing then blocks its own thread only.
        self._health = health.HealthServicer(experimental_non_blocking=False)
        self._shown: Dict[str, int] = {}
        self._servicer = Servicer(detector, metrics, self._threads, self._admission)
        self._server = self._make(Role(settings, is_operator=False))
        self._servers = [self._server]
        if settings.operator_socket:
            self._servers.append(self._make(Role(settings, is_operator=True)))
        self._files: List[SocketFile] = []

    def listen(self) -> List[str]:
        """Take the addresses and return them; callers connect, and wait for `start`.

        Raises InvalidConfiguration: what stands in the way.
        """
        settings = self._settings
        credentials = _credentials(settings)
        addresses = [settings.socket]
        try:
            owner, group = _owner(settings.socket_owner), _group(settings.socket_group)
            mode = int(settings.socket_mode, 8)
            self._listen_unix(self._server, settings.socket, owner, group, mode)
            if settings.tcp:
                for address in _tcp_addresses(settings.tcp, credentials is not None):
                    _listen(self._server, address, credentials)
                addresses.append(settings.tcp)
            if settings.operator_socket:
                group = _group(settings.operator_group) if settings.operator_group else OWN
                mode = 0o660 if settings.operator_group else 0o600
                self._listen_unix(self._servers[-1], settings.operator_socket, OWN, group, mode)
                addresses.append(settings.operator_socket)
        except InvalidConfiguration:
            self._remove_files()
            raise
        return addresses

    def start(self) -> None:
        """Answer calls."""
        for server in self._servers:
            server.start()
        self._admission.start()

    def show(self, info: ModelInfo) -> None:
        """Report a model's state to the health service, under the model's name."""
        kind = health_pb2.HealthCheckResponse
        serving = info.state is ModelState.RUNNING and info.inference_units > 0
        self._set_health(info.name, kind.SERVING if serving else kind.NOT_SERVING)

    def forget(self, name: str) -> None:
        """Report to the health service that a model was removed."""
        self._set_health(name, health_pb2.HealthCheckResponse.SERVICE_UNKNOWN)

    def calls(self) -> CallFigures:
        """Return what the calls hold, and how many were ended since the start."""
        return self._admission.figures()

    def stop(self, within_s: float) -> None:
        """Refuse new calls, let those in flight finish, remove the socket file."""
        self._health.enter_graceful_shutdown()
        for server in self._servers:
            server.stop(within_s)
        # Until watchers of the health are notified and the last call is counted.
        time.sleep(FLUSH_S)
        self._servicer.finish(within_s)
        # A client that stays connected would use up the whole time, with nothing left to finish.
        for stopped in [server.stop(FLUSH_S) for server in self._servers]:
            stopped.wait()
        self._admission.close()
        self._remove_files()

    def _make(self, role: Role) -> grpc.Server:
        server = grpc.server(
            self._threads,
            options=_options(self._settings),
            interceptors=(self._admission.interceptor(),),
            maximum_concurrent_rpcs=CALLS_AT_ONCE,
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        server.add_generic_rpc_handlers((self._servicer.handler(role),))
        ours = protocol.CONTRACT_SERVICE, protocol.INSPECTOR_SERVICE
        services = (*ours, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(services, server)
        return server

    def _listen_unix(
        self, server: grpc.Server, address: str, owner: int, group: int, mode: int
    ) -> None:
        path = Path(address[len(protocol.UNIX_SCHEME) :])
        claim(path)
        before = os.umask(0o777 & ~mode)
        try:
            _listen(server, address, None)
        finally:
            os.umask(before)
        hand_over(path, owner, group, mode)
        facts = path.stat()
        self._files.append(SocketFile(path, facts.st_dev, facts.st_ino))

    def _remove_files(self) -> None:
        for file in self._files:
            with suppress(OSError):  # gone already
                facts = file.path.stat()
                if (facts.st_dev, facts.st_ino) == (file.device, file.inode):
                    file.path.unlink()

    def _set_health(self, name: str, status: int) -> None:
        """Watchers are notified of changes only, as in the health protocol."""
        if self._shown.get(name) != status:
            self._shown[name] = status
            self._health.set(name, status)


def _listen(
    server: grpc.Server, address: str, credentials: Optional[grpc.ServerCredentials]
) -> None:
    try:
        if credentials is None:
            server.add_insecure_port(address)
        else:
            server.add_secure_port(address, credentials)
    except RuntimeError as error:
        raise InvalidConfiguration(f"Can't listen on {address}: {error}") from None


def _memory_share() -> int:
    """Return the bytes that calls may hold together where no setting says it."""
    usable = resources.memory_bytes()
    # Where memory is short, more than a quarter: four of the largest messages come in, or two.
    return max(256 * MIB, min(512 * MIB, usable // 2), usable // 4)


def _options(settings: ServerSettings) -> List[Tuple[str, int]]:
    """Return gRPC's limits; https://grpc.github.io/grpc/core/group__grpc__arg__keys.html."""
    version = tuple(int(part) for part in grpc.__version__.split(".")[:2])
    addresses = 1 + 2 * (settings.tcp is not None) + (settings.operator_socket is not None)
    plain = [("grpc.compression_enabled_algorithms_bitset", ONLY_PLAIN)]
    return [
        *(plain if version < INFLATES_BOUNDED else ()),
        *protocol.MESSAGE_LIMITS,
        ("grpc.so_reuseport", 0),
        ("grpc.max_concurrent_streams", CALLS_PER_CONNECTION),
        # What a client may send before its call is read; gRPC would let it grow to some 10 MiB.
        ("grpc.http2.bdp_probe", 0),
        ("grpc.http2.lookahead_bytes", WINDOW_BYTES),
        # Beyond the first gRPC cancels new calls at random: a burst may be so large.
        ("grpc.server.max_pending_requests", CALLS_PENDING),
        ("grpc.server.max_pending_requests_hard_limit", 2 * CALLS_PENDING),
        ("grpc.server_handshake_timeout_ms", int(1000 * HANDSHAKE_WITHIN_S)),
        # Of each address; one more is closed at once.
        ("grpc.max_allowed_incoming_connections", descriptors.for_connections() // addresses),
        ("grpc.max_connection_idle_ms", int(1000 * settings.connection_idle_s)),
        ("grpc.keepalive_time_ms", int(1000 * KEEPALIVE_EVERY_S)),
        ("grpc.keepalive_timeout_ms", int(1000 * KEEPALIVE_WITHIN_S)),
    ]


def _owner(name: str) -> int:
    """Return the user id, OWN without a name."""
    try:
        return pwd.getpwnam(name).pw_uid if name else OWN
    except KeyError:
        raise InvalidConfiguration(f"server.socket_owner: this system has no user {name}") from None


def _group(name: str) -> int:
    """Return the group id; without a name the default group's, OWN where there is none."""
    try:
        return grp.getgrnam(name or protocol.SOCKET_GROUP).gr_gid
    except KeyError:
        if name:
            raise InvalidConfiguration(
                f"server.socket_group: this system has no group {name}"
            ) from None
        return OWN


def _tcp_addresses(address: str, is_encrypted: bool) -> Tuple[str, ...]:
    """Return where to listen: in plaintext on loopback, whatever "localhost" is resolved to."""
    host, _, port = address.rpartition(":")
    if is_encrypted or host.strip("[]") != "localhost":
        return (address,)
    return (f"127.0.0.1:{port}", f"[::1]:{port}") if _has_ipv6() else (f"127.0.0.1:{port}",)


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


def _credentials(settings: ServerSettings) -> Optional[grpc.ServerCredentials]:
    if settings.tls_certificate is None or settings.tls_key is None:
        return None  # the settings allow that on the loopback address only
    try:
        pair = (settings.tls_key.read_bytes(), settings.tls_certificate.read_bytes())
        client_ca = settings.tls_client_ca.read_bytes() if settings.tls_client_ca else None
    except OSError as error:
        raise InvalidConfiguration(
            f"TLS file {error.filename} can't be read: {error.strerror}"
        ) from None
    return grpc.ssl_server_credentials(
        [pair], root_certificates=client_ca, require_client_auth=client_ca is not None
    )
