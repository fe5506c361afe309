"""The gRPC server: where it listens, who may connect, message limits, health, reflection, stop."""

from __future__ import annotations

import grp
import logging
import os
import pwd
import socket
import stat
import time
from pathlib import Path
from typing import Dict, List, Optional, Tuple

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from edge_agent.config import ServerSettings
from edge_agent.errors import InvalidConfiguration
from edge_agent.runtime import memory
from edge_agent.runtime.detector import Detector
from edge_agent.runtime.metrics import Metrics
from edge_agent.runtime.rpc.admission import MESSAGE_LIMIT_BYTES, Admission, CallFigures
from edge_agent.runtime.rpc.handler_threads import HandlerThreads
from edge_agent.runtime.rpc.servicer import CONTRACT_SERVICE, INSPECTOR_SERVICE, Servicer
from edge_agent.types import ModelInfo, ModelState

log = logging.getLogger(__name__)

LEAST_MEMORY_BYTES = 256 * 1024 * 1024  # for calls: four of the largest messages
DEFAULT_GROUP = "ggc_group"
FLUSH_S = 0.1  # for messages that are written to leave
CALLS_AT_ONCE = 2048  # more than wait for all models together; beyond it gRPC refuses
CALLS_PER_CONNECTION = 512  # beyond it a client's own library holds calls back
WINDOW_BYTES = 1024 * 1024
HANDSHAKE_WITHIN_S = 10.0
# grpcio before 1.84 looks at the limit only after inflating: 1 MiB becomes 1 GiB.
ONLY_PLAIN = 1 << 0  # the bit of "identity" among gRPC's compression algorithms
ASK_ALIVE_EVERY_S, ALIVE_WITHIN_S = 60.0, 20.0  # whether the other end of a connection lives


class Server:
    """A gRPC server on a Unix socket and, when asked for, on TCP."""

    def __init__(self, settings: ServerSettings, detector: Detector, metrics: Metrics) -> None:
        self._settings = settings
        threads = HandlerThreads(CALLS_AT_ONCE)
        limit_bytes = 1024 * 1024 * settings.memory_mib if settings.memory_mib else _memory_share()
        self._admission = Admission(limit_bytes, settings.receive_within_s, settings.send_within_s)
        self._server = grpc.server(
            threads,
            options=_options(settings),
            interceptors=(self._admission,),
            maximum_concurrent_rpcs=CALLS_AT_ONCE,
        )
        # A watcher that reads nothing then blocks its own thread only.
        self._health = health.HealthServicer(experimental_non_blocking=False)
        self._shown: Dict[str, int] = {}
        self._identity: Optional[Tuple[int, int]] = None  # device and inode of our socket file
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        self._servicer = Servicer(detector, metrics, threads, self._admission)
        self._server.add_generic_rpc_handlers(self._servicer.handlers())
        reflection.enable_server_reflection(
            (CONTRACT_SERVICE, INSPECTOR_SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME),
            self._server,
        )

    def listen(self) -> List[str]:
        """Take the addresses and return them; callers connect, and wait for `start`.

        Raises InvalidConfiguration: what stands in the way.
        """
        path = self._settings.socket_path
        owner, group = _owner(self._settings.socket_owner), _group(self._settings.socket_group)
        credentials = _credentials(self._settings)
        claim(path)
        before = os.umask(0o777 & ~int(self._settings.socket_mode, 8))
        try:
            self._listen(self._settings.socket, None)
        finally:
            os.umask(before)
        _hand_over(path, owner, group, int(self._settings.socket_mode, 8))
        addresses = [self._settings.socket]
        if self._settings.tcp:
            try:
                for address in _tcp_addresses(self._settings.tcp, credentials is not None):
                    self._listen(address, credentials)
            except InvalidConfiguration:
                path.unlink()
                raise
            addresses.append(self._settings.tcp)
        facts = path.stat()
        self._identity = (facts.st_dev, facts.st_ino)
        return addresses

    def start(self) -> None:
        """Answer calls."""
        self._server.start()
        self._admission.start()

    def show(self, info: ModelInfo) -> None:
        """Tell the health service a model's state, under the model's name."""
        kind = health_pb2.HealthCheckResponse
        serving = info.state is ModelState.RUNNING and info.inference_units > 0
        self._set_health(info.name, kind.SERVING if serving else kind.NOT_SERVING)

    def forget(self, name: str) -> None:
        """Tell the health service that a model is gone."""
        self._set_health(name, health_pb2.HealthCheckResponse.SERVICE_UNKNOWN)

    def calls(self) -> CallFigures:
        """Return what the calls hold, and how many were ended since the start."""
        return self._admission.figures()

    def stop(self, within_s: float) -> None:
        """Refuse new calls, let those in flight finish, remove the socket file."""
        self._health.enter_graceful_shutdown()
        self._server.stop(within_s)
        time.sleep(FLUSH_S)  # until watchers of the health have heard and the last call is counted
        self._servicer.finish(within_s)
        # A client that stays connected would use up the whole time, with nothing left to finish.
        self._server.stop(FLUSH_S).wait()
        self._admission.close()
        path = self._settings.socket_path
        try:
            facts = path.stat()
            if (facts.st_dev, facts.st_ino) == self._identity:
                path.unlink()
        except OSError:
            return  # gone already

    def _set_health(self, name: str, status: int) -> None:
        """Watchers hear of changes only, as the health protocol has it."""
        if self._shown.get(name) != status:
            self._shown[name] = status
            self._health.set(name, status)

    def _listen(self, address: str, credentials: Optional[grpc.ServerCredentials]) -> None:
        try:
            if credentials is None:
                self._server.add_insecure_port(address)
            else:
                self._server.add_secure_port(address, credentials)
        except RuntimeError as error:
            raise InvalidConfiguration(f"Can't listen on {address}: {error}") from None


def _memory_share() -> int:
    """Return the bytes that calls may hold together where no setting says it."""
    return max(LEAST_MEMORY_BYTES, memory.usable_bytes() // 4)


def _options(settings: ServerSettings) -> List[Tuple[str, int]]:
    """Return gRPC's limits; https://grpc.github.io/grpc/core/group__grpc__arg__keys.html."""
    return [
        ("grpc.max_receive_message_length", MESSAGE_LIMIT_BYTES),
        ("grpc.max_send_message_length", MESSAGE_LIMIT_BYTES),
        ("grpc.so_reuseport", 0),
        ("grpc.compression_enabled_algorithms_bitset", ONLY_PLAIN),
        ("grpc.max_concurrent_streams", CALLS_PER_CONNECTION),
        # What a client may send before its call is read; gRPC would let it grow to some 10 MiB.
        ("grpc.http2.bdp_probe", 0),
        ("grpc.http2.lookahead_bytes", WINDOW_BYTES),
        ("grpc.server_handshake_timeout_ms", int(1000 * HANDSHAKE_WITHIN_S)),
        ("grpc.max_connection_idle_ms", int(1000 * settings.connection_idle_s)),
        ("grpc.keepalive_time_ms", int(1000 * ASK_ALIVE_EVERY_S)),
        ("grpc.keepalive_timeout_ms", int(1000 * ALIVE_WITHIN_S)),
    ]


def claim(path: Path) -> None:
    """Make sure nobody serves at `path`; remove the socket file a dead agent left.

    Raises InvalidConfiguration when an agent answers there, or something else lies there.
    """
    if not path.parent.is_dir():
        raise InvalidConfiguration(f"Socket {path}: its folder doesn't exist; create it first.")
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise InvalidConfiguration(f"{path} exists and isn't a socket; move it away.")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            log.info("Replacing %s, left by an agent that is gone.", path)
            path.unlink()
            return
        except OSError as error:
            raise InvalidConfiguration(
                f"Can't tell whether an agent serves at {path}: {error}"
            ) from None
    raise InvalidConfiguration(
        f"Another agent already serves at {path}. Stop it, or set server.socket to another path."
    )


def _hand_over(path: Path, owner: int, group: int, mode: int) -> None:
    """Give the socket file its owner, group and mode; -1 keeps the agent's own."""
    try:
        os.chown(path, owner, group)
        path.chmod(mode)
    except PermissionError:
        log.warning(
            "%s keeps group %d: the agent's user isn't in the group asked for; clients of other "
            "users can't connect.",
            path,
            path.stat().st_gid,
        )


def _owner(name: str) -> int:
    """Return the user id, -1 to keep the agent's own."""
    try:
        return pwd.getpwnam(name).pw_uid if name else -1
    except KeyError:
        raise InvalidConfiguration(f"server.socket_owner: no user {name}") from None


def _group(name: str) -> int:
    """Return the group id, -1 to keep the agent's own."""
    try:
        return grp.getgrnam(name or DEFAULT_GROUP).gr_gid
    except KeyError:
        if name:
            raise InvalidConfiguration(f"server.socket_group: no group {name}") from None
        return -1


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
        raise InvalidConfiguration(f"TLS file {error.filename}: {error.strerror}") from None
    return grpc.ssl_server_credentials(
        [pair], root_certificates=client_ca, require_client_auth=client_ca is not None
    )
