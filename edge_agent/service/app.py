"""Builds the service and runs it: what starts in which order, and stops in the reverse one."""

from __future__ import annotations

import logging
import signal
import socket
import ssl
import sys
from contextlib import ExitStack, closing
from pathlib import Path
from types import FrameType
from typing import Dict, Optional, Sequence

import uvicorn
from botocore import xform_name

from edge_agent.errors import InvalidConfiguration
from edge_agent.runtime.system import descriptors
from edge_agent.service.audit import AuditLog
from edge_agent.service.auth.access_keys import AccessKeys
from edge_agent.service.auth.authenticator import Authenticator
from edge_agent.service.buckets.opening import open_buckets
from edge_agent.service.call import Operation
from edge_agent.service.connections import CONNECTIONS, HEAD_BYTES, HttpConnection
from edge_agent.service.hosting.hosted_models import HostedModels
from edge_agent.service.http import ServiceApp
from edge_agent.service.operations.datasets import Datasets
from edge_agent.service.operations.detection import Detection
from edge_agent.service.operations.hosting import Hosting
from edge_agent.service.operations.model_training import ModelTraining
from edge_agent.service.operations.models import Models
from edge_agent.service.operations.packaging_jobs import PackagingJobs
from edge_agent.service.operations.projects import Projects
from edge_agent.service.operations.tags import Tags
from edge_agent.service.records.database import Records
from edge_agent.service.root import AUDIT_LOG, ServiceRoot
from edge_agent.service.settings import ServiceSettings
from edge_agent.service.throttle import Throttle
from edge_agent.service.wire.model import LOOKOUT_FOR_VISION, service_model
from edge_agent.service.wire.rest_json import RestJson
from edge_agent.service.work.children import Children
from edge_agent.service.work.dataset_imports import DatasetImports
from edge_agent.setting_types import ALL_HOSTS, host_of

FINISH_WITHIN_S = 20  # calls that are being answered when a stop is requested
KEEP_ALIVE_S = 75  # of a connection without calls; longer than clients keep theirs
BACKLOG = 1024

log = logging.getLogger(__name__)


def run(folder: Path, settings: ServiceSettings) -> int:
    """Serve until SIGTERM or SIGINT. Raises InvalidConfiguration, OSError at the start."""
    stop = _StopRequest()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    descriptors.raise_limit()
    with ExitStack() as stack:
        root = ServiceRoot(folder)
        stack.callback(root.close)
        root.take()
        _check_certificate(settings)
        listener = stack.enter_context(_listen(settings.listen))
        server = uvicorn.Server(_server_config(settings, build(root, settings, stack)))
        stop.passed_to(server)
        sys.stdout.write(_greeting(folder, settings))
        sys.stdout.flush()
        server.run(sockets=[listener])
    log.info("Stopped.")
    return 0


class _StopRequest:
    """A signal's handler, until uvicorn's own are in place, and after them."""

    def __init__(self) -> None:
        self._came = False
        self._server: Optional[uvicorn.Server] = None

    def __call__(self, _number: int, _frame: Optional[FrameType]) -> None:
        self._came = True
        if self._server:
            self._server.should_exit = True

    def passed_to(self, server: uvicorn.Server) -> None:
        self._server = server
        if self._came:
            server.should_exit = True


def build(root: ServiceRoot, settings: ServiceSettings, stack: ExitStack) -> ServiceApp:
    """Start all parts in their order; `stack` stops them in the reverse one.

    So what calls wait for ends before the threads that answer them are waited for.
    """
    records = stack.enter_context(closing(root.records()))
    buckets = open_buckets(root.folder, settings.buckets, records)
    work = Children(root=root.folder, settings=settings, records=records)
    imports = DatasetImports(records=records, buckets=buckets, quotas=settings.quotas)
    hosting = HostedModels(records, settings, root.folder)
    training = ModelTraining(
        root=root.folder, settings=settings, records=records, buckets=buckets, work=work
    )
    rooms = (
        Projects(settings),
        Datasets(buckets=buckets, imports=imports),
        Models(),
        training,
        Hosting(hosting, settings),
        Detection(hosting),
        PackagingJobs(settings=settings, buckets=buckets, work=work),
        Tags(),
    )
    audit = stack.enter_context(closing(AuditLog(root.folder / AUDIT_LOG, records)))
    app = _http_app(audit, settings, records, rooms)
    stack.callback(app.close)
    training.start()
    for part in (work, imports, hosting):
        part.start()
        stack.callback(part.close)
    return app


def _http_app(
    audit: AuditLog, settings: ServiceSettings, records: Records, rooms: Sequence[object]
) -> ServiceApp:
    model = service_model(LOOKOUT_FOR_VISION)
    unsigned_account = settings.unsigned_account if settings.unsigned else None
    return ServiceApp(
        RestJson(model),
        operations_of(rooms, model.operation_names),
        records,
        Authenticator(AccessKeys(records).find, unsigned_account),
        Throttle(settings.quotas.calls_per_s, settings.quotas.burst),
        audit,
    )


def operations_of(rooms: Sequence[object], names: Sequence[str]) -> Dict[str, Operation]:
    """Return the operations by their names; in one of `rooms` each is a method in snake_case."""
    return {
        name: getattr(room, xform_name(name))
        for name in names
        for room in rooms
        if hasattr(room, xform_name(name))
    }


def _listen(address: str) -> socket.socket:
    """Return a socket that listens. Raises InvalidConfiguration."""
    host, port = host_of(address), int(address.rpartition(":")[2])
    try:
        family, *_, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.create_server(place[:2], family=family, backlog=BACKLOG)
    except OSError as error:
        raise InvalidConfiguration(
            f"The service can't listen on {address}: {error.strerror or error}. Stop what listens "
            "there, or name another address with --listen."
        ) from None
    # asyncio sets it only on sockets that name their protocol. Without it, each answer waits 40 ms
    # between its head and its body.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def _check_certificate(settings: ServiceSettings) -> None:
    """Raise InvalidConfiguration for files that TLS can't use."""
    if settings.tls_certificate is None:
        return
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(settings.tls_certificate, settings.tls_key, password="")
    except OSError as error:  # of which SSLError is one
        raise InvalidConfiguration(
            f"tls_certificate {settings.tls_certificate} and tls_key {settings.tls_key} can't be "
            f"used: {error.strerror or error}. They must be a PEM chain and its key, without a "
            "password."
        ) from None


def _server_config(settings: ServiceSettings, app: ServiceApp) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        loop="asyncio",
        http=HttpConnection,
        h11_max_incomplete_event_size=HEAD_BYTES,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,  # who calls is who is connected
        server_header=False,
        limit_concurrency=CONNECTIONS + 1,  # 503 for those beyond
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=FINISH_WITHIN_S,
        ssl_certfile=settings.tls_certificate,
        ssl_keyfile=settings.tls_key,
    )


def _greeting(folder: Path, settings: ServiceSettings) -> str:
    scheme = "https" if settings.tls_certificate else "http"
    host, colon, port = settings.listen.rpartition(":")
    reached = "localhost" if host.strip("[]") in ALL_HOSTS else host
    url = f"{scheme}://{reached}{colon}{port}"
    return (
        f"The service API of Lookout for Vision listens on {url}\n"
        f"Point boto3 and the AWS CLI at it: export AWS_ENDPOINT_URL_LOOKOUTVISION={url}\n"
        f"Make an access key for them: edge-agent service keys add --root {folder}\n"
    )
