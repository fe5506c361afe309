"""The gRPC server: where it listens, who may connect, message limits, health, reflection, stop."""

from __future__ import annotations

import grp
import logging
import os
import pwd
import threading
import time
from functools import partial
from typing import Dict, List, Optional, Tuple

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
from edge_agent.runtime.rpc.unix_socket import Access, UnixSocket, listen
from edge_agent.runtime.system import descriptors, resources, tcp
from edge_agent.types import ModelInfo, ModelState

log = logging.getLogger(__name__)

MIB = 1024 * 1024
SERVICES = (
    protocol.CONTRACT_SERVICE,
    protocol.INSPECTOR_SERVICE,
    health.SERVICE_NAME,
    reflection.SERVICE_NAME,
)
OWN = -1  # for chown(2): the agent's own user or group
LOOK_EVERY_S = 1.0  # at the sockets' files
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


class Server:
    """Serves on a Unix socket; when asked for, on TCP and on a socket for operators."""

    def __init__(self, settings: ServerSettings, detector: Detector, metrics: Metrics) -> None:
        self._settings = settings
        self._metrics = metrics
        self._threads = HandlerThreads(CALLS_AT_ONCE)
        limit_bytes = MIB * settings.memory_mib if settings.memory_mib else _memory_share()
        self._connections = _connections(settings, limit_bytes)
        self._admission = Admission(limit_bytes, settings.receive_within_s, settings.send_within_s)
        # A watcher that reads nothing then blocks its own thread only.
        self._health = health.HealthServicer(experimental_non_blocking=False)
        self._shown: Dict[str, int] = {}
        for service in SERVICES:
            self._set_health(service, health_pb2.HealthCheckResponse.SERVING)
        self._servicer = Servicer(detector, metrics, self._threads, self._admission)
        self._sockets: List[UnixSocket] = []
        self._tcp: Optional[grpc.Server] = None
        self._stopping = threading.Event()
        self._watch = threading.Thread(target=self._look_often, name="socket-watch", daemon=True)

    def listen(self) -> List[str]:
        """Take the addresses and return them; callers connect, and wait for `start`.

        Raises InvalidConfiguration: what stands in the way.
        """
        settings = self._settings
        addresses = [settings.socket]
        mode = int(settings.socket_mode, 8)
        owner, group = _owner(settings.socket_owner), _group(settings.socket_group)
        try:
            self._listen_unix(settings.socket, Access(owner, group, mode), is_operator=False)
            if settings.tcp:
                self._listen_tcp(settings.tcp)
                addresses.append(settings.tcp)
            if settings.operator_socket:
                group = _group(settings.operator_group) if settings.operator_group else OWN
                access = Access(OWN, group, 0o660 if settings.operator_group else 0o600)
                self._listen_unix(settings.operator_socket, access, is_operator=True)
                addresses.append(settings.operator_socket)
        except InvalidConfiguration:
            self.close()
            raise
        return addresses

    def close(self) -> None:
        """Give the addresses back, in place of `start`."""
        for each in (*self._sockets, *self._tcp_servers()):
            each.start()  # gRPC frees only what was started
            each.stop(0.0)
        self._end(0.0)
        self._sockets, self._tcp = [], None

    def start(self) -> None:
        """Answer calls, and see to it that callers find the sockets."""
        for each in (*self._sockets, *self._tcp_servers()):
            each.start()
        for unix in self._sockets:
            self._metrics.has_socket(str(unix.path), listens=True)
        self._admission.start()
        self._watch.start()

    def show(self, info: ModelInfo) -> None:
        """Report a model's state to the health service, under the model's name."""
        if info.name in SERVICES:  # asked for by name, a service is meant
            return
        kind = health_pb2.HealthCheckResponse
        serving = info.state is ModelState.RUNNING and info.inference_units > 0
        self._set_health(info.name, kind.SERVING if serving else kind.NOT_SERVING)

    def forget(self, name: str) -> None:
        """Report to the health service that a model was removed."""
        if name not in SERVICES:
            self._set_health(name, health_pb2.HealthCheckResponse.SERVICE_UNKNOWN)

    def calls(self) -> CallFigures:
        """Return what the calls hold, and how many were ended since the start."""
        return self._admission.figures()

    def stop(self, within_s: float) -> None:
        """Refuse new calls, let those in flight finish, remove the socket file."""
        self._stopping.set()
        self._watch.join()
        self._health.enter_graceful_shutdown()
        for each in (*self._sockets, *self._tcp_servers()):
            each.stop(within_s)
        # Until watchers of the health are notified and the last call is counted.
        time.sleep(FLUSH_S)
        self._servicer.finish(within_s)
        # A client that stays connected would use up the whole time, with nothing left to finish.
        self._end(FLUSH_S)
        self._admission.close()

    def _end(self, within_s: float) -> None:
        for stopped in [server.stop(within_s) for server in self._tcp_servers()]:
            stopped.wait()
        for unix in self._sockets:
            unix.end(within_s)

    def _make(self, is_operator: bool) -> grpc.Server:
        server = grpc.server(
            self._threads,
            options=_options(self._settings, self._connections),
            interceptors=(self._admission.interceptor(),),
            maximum_concurrent_rpcs=CALLS_AT_ONCE,
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        role = Role(self._settings, is_operator)
        server.add_generic_rpc_handlers((self._servicer.handler(role),))
        reflection.enable_server_reflection(SERVICES, server)
        return server

    def _listen_unix(self, address: str, access: Access, is_operator: bool) -> None:
        # For good: what others may not connect to must not be open to them for a moment, and other
        # threads make files too when the path is bound again.
        os.umask(os.umask(0o077) | (0o222 & ~access.mode))
        unix = UnixSocket(address, access, partial(self._make, is_operator))
        unix.bind()
        self._sockets.append(unix)

    def _listen_tcp(self, address: str) -> None:
        credentials = _credentials(self._settings)
        self._tcp = self._make(is_operator=False)
        for each in tcp.free_addresses(address):
            listen(self._tcp, each, credentials)

    def _tcp_servers(self) -> List[grpc.Server]:
        return [self._tcp] if self._tcp else []

    def _look_often(self) -> None:
        while not self._stopping.wait(LOOK_EVERY_S):
            try:
                self._look()
            except Exception:
                log.exception("The sockets couldn't be looked at. The agent tries again.")

    def _look(self) -> None:
        """Restore the sockets whose file is gone or was replaced."""
        kind = health_pb2.HealthCheckResponse
        lost = [unix for unix in self._sockets if not unix.has_file()]
        for unix in lost:
            self._set_health("", kind.NOT_SERVING)
            self._metrics.has_socket(str(unix.path), listens=False)
            if unix.restore():
                self._metrics.has_socket(str(unix.path), listens=True)
                self._metrics.socket_restored(str(unix.path))
        if lost and all(unix.has_file() for unix in self._sockets):
            self._set_health("", kind.SERVING)

    def _set_health(self, name: str, status: int) -> None:
        """Watchers are notified of changes only, as in the health protocol."""
        if self._shown.get(name) != status:
            self._shown[name] = status
            self._health.set(name, status)


def _memory_share() -> int:
    """Return the bytes that calls may hold together where no setting says it."""
    usable = resources.memory_bytes()
    # Where memory is short, more than a quarter: four of the largest messages come in, or two.
    return max(256 * MIB, min(512 * MIB, usable // 2), usable // 4)


def _connections(settings: ServerSettings, limit_bytes: int) -> int:
    """Return how many connections one address may have: by descriptors, and by their windows."""
    addresses = 1 + 2 * (settings.tcp is not None) + (settings.operator_socket is not None)
    return min(descriptors.for_connections(), limit_bytes // WINDOW_BYTES) // addresses


def _options(settings: ServerSettings, connections: int) -> List[Tuple[str, int]]:
    """Return gRPC's limits; https://grpc.github.io/grpc/core/group__grpc__arg__keys.html."""
    version = tuple(int(part) for part in grpc.__version__.split(".")[:2])
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
        ("grpc.max_allowed_incoming_connections", connections),
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
