"""The gRPC server: where it listens, who may connect, message limits, health, reflection, stop."""

from __future__ import annotations

import grp
import logging
import os
import pwd
import time
from typing import Dict, List, Optional, Tuple

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from edge_agent.config import ServerSettings
from edge_agent.errors import InvalidConfiguration
from edge_agent.runtime.detector import Detector
from edge_agent.runtime.metrics import Metrics
from edge_agent.runtime.rpc.handler_threads import HandlerThreads
from edge_agent.runtime.rpc.servicer import CONTRACT_SERVICE, INSPECTOR_SERVICE, Servicer
from edge_agent.runtime.rpc.socket_file import claim, hand_over
from edge_agent.runtime.rpc.unary_calls import UnaryCalls, Unsupported, public_handlers
from edge_agent.types import ModelInfo, ModelState

log = logging.getLogger(__name__)

# Above the largest legal frame, 4096 * 4096 * 3 = 50,331,648 bytes, so that RESOURCE_EXHAUSTED only
# ever means load.
MESSAGE_LIMIT_BYTES = 64 * 1024 * 1024
DEFAULT_GROUP = "ggc_group"
FLUSH_S = 0.1  # for messages that are written to leave
CALLS_AT_ONCE = 2048  # more than wait for all models together; beyond it gRPC refuses


class Server:
    """A gRPC server on a Unix socket and, when asked for, on TCP."""

    def __init__(self, settings: ServerSettings, detector: Detector, metrics: Metrics) -> None:
        self._settings = settings
        threads = HandlerThreads(CALLS_AT_ONCE)
        self._server = grpc.server(
            threads,
            options=[
                ("grpc.max_receive_message_length", MESSAGE_LIMIT_BYTES),
                ("grpc.max_send_message_length", MESSAGE_LIMIT_BYTES),
                ("grpc.so_reuseport", 0),
            ],
            maximum_concurrent_rpcs=CALLS_AT_ONCE,
        )
        # A watcher that reads nothing then blocks its own thread only.
        self._health = health.HealthServicer(experimental_non_blocking=False)
        self._shown: Dict[str, int] = {}
        self._identity: Optional[Tuple[int, int]] = None  # device and inode of our socket file
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        self._servicer = Servicer(detector, metrics, threads)
        self._server.add_generic_rpc_handlers(self._servicer.handlers())
        methods = self._servicer.frame_methods()
        self._frames: Optional[UnaryCalls] = None
        try:
            self._frames = UnaryCalls(self._server, methods, CALLS_AT_ONCE)
        except Unsupported as error:
            log.warning("Frames take gRPC's own way, about 0.3 ms longer each: %s", error)
            self._server.add_generic_rpc_handlers(public_handlers(methods))
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
        hand_over(path, owner, group, int(self._settings.socket_mode, 8))
        addresses = [self._settings.socket]
        if self._settings.tcp:
            try:
                self._listen(self._settings.tcp, credentials)
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
        if self._frames is not None:
            self._frames.start()

    def show(self, info: ModelInfo) -> None:
        """Tell the health service a model's state, under the model's name."""
        kind = health_pb2.HealthCheckResponse
        serving = info.state is ModelState.RUNNING and info.inference_units > 0
        self._set_health(info.name, kind.SERVING if serving else kind.NOT_SERVING)

    def forget(self, name: str) -> None:
        """Tell the health service that a model is gone."""
        self._set_health(name, health_pb2.HealthCheckResponse.SERVICE_UNKNOWN)

    def stop(self, within_s: float) -> None:
        """Refuse new calls, let those in flight finish, remove the socket file."""
        self._health.enter_graceful_shutdown()
        if self._frames is not None:
            self._frames.take_all()
        self._server.stop(within_s)
        time.sleep(FLUSH_S)  # until watchers of the health have heard and the last call is counted
        self._servicer.finish(within_s)
        # A client that stays connected would use up the whole time, with nothing left to finish.
        self._server.stop(FLUSH_S).wait()
        if self._frames is not None:
            self._frames.close()
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
