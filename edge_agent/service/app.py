"""Builds the service and runs it: what starts in which order, and stops in the reverse one."""

from __future__ import annotations

import logging
import signal
import socket
import sys
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Dict, Sequence

import uvicorn
from botocore import xform_name

from edge_agent.errors import InvalidConfiguration
from edge_agent.service.audit import AuditLog
from edge_agent.service.auth.access_keys import AccessKeys
from edge_agent.service.auth.authenticator import Authenticator
from edge_agent.service.buckets.opening import open_buckets
from edge_agent.service.call import Operation
from edge_agent.service.hosting.hosted_models import HostedModels
from edge_agent.service.http import HEAD_BYTES, ServiceApp
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
from edge_agent.setting_types import host_of

FINISH_WITHIN_S = 20  # calls that are being answered when a stop is requested
KEEP_ALIVE_S = 75  # of a connection without calls; longer than clients keep theirs
BACKLOG = 1024

log = logging.getLogger(__name__)


def run(folder: Path, settings: ServiceSettings) -> int:
    """Serve until SIGTERM or SIGINT. Raises InvalidConfiguration, OSError at the start."""
    with ExitStack() as stack:
        root = ServiceRoot(folder)
        stack.callback(root.close)
        root.take()
        listener = stack.enter_context(_listen(settings.listen))
        server = uvicorn.Server(_server_config(settings, build(root, settings, stack)))

        def stop(_: int, __: object) -> None:
            server.should_exit = True

        # While it runs, uvicorn's handlers are in front; it calls these when it has ended.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, stop)
        sys.stdout.write(_greeting(folder, settings))
        sys.stdout.flush()
        server.run(sockets=[listener])
        log.info("Stopping.")
    log.info("Stopped.")
    return 0


def build(root: ServiceRoot, settings: ServiceSettings, stack: ExitStack) -> ServiceApp:
    """Start all parts in their order; `stack` stops them in the reverse one."""
    records = stack.enter_context(closing(root.records()))
    buckets = open_buckets(root.folder, settings.buckets)
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
        PackagingJobs(root=root.folder, settings=settings, buckets=buckets, work=work),
        Tags(),
    )
    training.start()
    for part in (work, imports, hosting):
        part.start()
        stack.callback(part.close)
    app = _http_app(root, settings, records, rooms)
    stack.callback(app.close)
    return app


def _http_app(
    root: ServiceRoot, settings: ServiceSettings, records: Records, rooms: Sequence[object]
) -> ServiceApp:
    model = service_model(LOOKOUT_FOR_VISION)
    unsigned_account = settings.unsigned_account if settings.unsigned else None
    return ServiceApp(
        RestJson(model),
        operations_of(rooms, model.operation_names),
        records,
        Authenticator(AccessKeys(records).find, unsigned_account),
        Throttle(settings.quotas.calls_per_s, settings.quotas.burst),
        AuditLog(root.folder / AUDIT_LOG),
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
        return socket.create_server(place[:2], family=family, backlog=BACKLOG)
    except OSError as error:
        raise InvalidConfiguration(
            f"The service can't listen on {address}: {error.strerror or error}. Stop what listens "
            "there, or name another address with --listen."
        ) from None


def _server_config(settings: ServiceSettings, app: ServiceApp) -> uvicorn.Config:
    """Return what uvicorn takes. Raises InvalidConfiguration for files that TLS can't use."""
    config = uvicorn.Config(
        app,
        loop="asyncio",
        http="h11",
        h11_max_incomplete_event_size=HEAD_BYTES,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,  # who calls is who is connected
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=FINISH_WITHIN_S,
        ssl_certfile=settings.tls_certificate,
        ssl_keyfile=settings.tls_key,
    )
    try:
        config.load()
    except OSError as error:  # of which SSLError is one
        raise InvalidConfiguration(
            f"tls_certificate {settings.tls_certificate} and tls_key {settings.tls_key} can't be "
            f"used: {error.strerror or error}. They must be a PEM chain and its key, without a "
            "password."
        ) from None
    return config


def _greeting(folder: Path, settings: ServiceSettings) -> str:
    scheme = "https" if settings.tls_certificate else "http"
    url = f"{scheme}://{settings.listen}"
    return (
        f"The service API of Lookout for Vision listens on {url}\n"
        f"Point boto3 and the AWS CLI at it: export AWS_ENDPOINT_URL_LOOKOUTVISION={url}\n"
        f"Make an access key for them: edge-agent service keys add --root {folder}\n"
    )
