"""The ASGI application on a real socket, with operations that a test gives."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, NamedTuple, Optional

import uvicorn
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from edge_agent.service.audit import AuditLog
from edge_agent.service.auth.access_keys import AccessKey, AccessKeys
from edge_agent.service.auth.authenticator import Authenticator
from edge_agent.service.call import Answer, Call, Operation
from edge_agent.service.connections import HEAD_BYTES, HttpConnection
from edge_agent.service.http import ServiceApp
from edge_agent.service.records.database import Records, Transaction
from edge_agent.service.throttle import Throttle
from edge_agent.service.wire.model import LOOKOUT_FOR_VISION, service_model
from edge_agent.service.wire.rest_json import RestJson

ACCOUNT = "123456789012"
UNSIGNED_ACCOUNT = "000000000000"
PROJECTS = "/2020-11-20/projects"


class Received(NamedTuple):
    """An answer as it came; names of headers in lower case."""

    status: int
    headers: Dict[str, str]
    body: bytes

    @property
    def error(self) -> str:
        return self.headers["x-amzn-errortype"]

    @property
    def content(self) -> Any:
        return json.loads(self.body)

    @property
    def message(self) -> str:
        content = self.content
        return str(content.get("Message", content.get("message")))


def ask(
    port: int, method: str, target: str, body: bytes, headers: Optional[Mapping[str, str]] = None
) -> Received:
    """Send a request to this machine, as it is."""
    with contextlib.closing(
        http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    ) as connection:
        connection.request(method, target, body, dict(headers or {}))
        response = connection.getresponse()
        names = {name.lower(): value for name, value in response.getheaders()}
        return Received(response.status, names, response.read())


class Served:
    """The running application; `calls` are those that reached an operation."""

    def __init__(
        self, folder: Path, operations: Mapping[str, Operation], burst: int, unsigned: bool
    ) -> None:
        self.records = Records(folder / "records.db")
        self.audit_file = folder / "audit.log"
        self.calls: List[Call] = []
        self._given = operations
        keys = AccessKeys(self.records)
        self.key = keys.add(ACCOUNT, 0.0)
        model = service_model(LOOKOUT_FOR_VISION)
        self.app = ServiceApp(
            RestJson(model),
            dict.fromkeys(model.operation_names, self._operation),
            self.records,
            Authenticator(keys.find, UNSIGNED_ACCOUNT if unsigned else None),
            Throttle(10.0, burst),
            AuditLog(self.audit_file, self.records),
        )
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.port: int = self.listener.getsockname()[1]

    def _operation(self, call: Call, transaction: Transaction) -> Answer:
        self.calls.append(call)
        operation = self._given.get(call.operation)
        return operation(call, transaction) if operation else {}

    def audit_lines(self) -> List[Dict[str, Any]]:
        return [json.loads(line) for line in self.audit_file.read_text().splitlines()]

    def call(
        self,
        method: str,
        target: str,
        body: bytes = b"",
        headers: Optional[Mapping[str, str]] = None,
    ) -> Received:
        """Send a request without a signature."""
        return ask(self.port, method, target, body, headers)

    def signed(
        self,
        method: str,
        target: str,
        body: bytes = b"",
        headers: Optional[Mapping[str, str]] = None,
        key: Optional[AccessKey] = None,
    ) -> Received:
        """Send a request that botocore signs."""
        signed = self.signature(method, target, body, headers or {}, key or self.key)
        return self.call(method, target, body, signed)

    def signature(
        self, method: str, target: str, body: bytes, headers: Mapping[str, str], key: AccessKey
    ) -> Dict[str, str]:
        """The headers of a request, with those of its signature."""
        url = f"http://127.0.0.1:{self.port}{target}"
        request = AWSRequest(method, url, dict(headers), body)
        credentials = Credentials(key.id, key.secret)
        SigV4Auth(credentials, "lookoutvision", "us-east-1").add_auth(request)
        return dict(request.headers.items())


@contextlib.contextmanager
def served(
    folder: Path, operations: Mapping[str, Operation], burst: int = 10**6, unsigned: bool = False
) -> Iterator[Served]:
    """Serve in a thread until the block ends."""
    service = Served(folder, operations, burst, unsigned)
    config = uvicorn.Config(
        service.app, ws="none", lifespan="off", http=HttpConnection, log_config=None,
        h11_max_incomplete_event_size=HEAD_BYTES,
    )  # fmt: skip
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([service.listener],))
    thread.start()
    try:
        yield service
    finally:
        server.should_exit = True
        thread.join()
        service.app.close()
        service.records.close()
        service.listener.close()
