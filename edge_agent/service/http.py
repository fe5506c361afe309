"""The ASGI application: what happens to a call between its request and its answer.

The signature is checked before anything else is said about a request. Operations run in threads,
in one transaction each; what changes something is answered after its commit.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Mapping

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from edge_agent.service.audit import AuditLog
from edge_agent.service.auth.authenticator import Authenticator, Principal
from edge_agent.service.auth.http_request import HttpRequest
from edge_agent.service.auth.replays import refuse_replay
from edge_agent.service.bodies import Bodies
from edge_agent.service.call import Call, Operation
from edge_agent.service.faults import ServiceFault
from edge_agent.service.records.client_tokens import once
from edge_agent.service.records.database import Records
from edge_agent.service.throttle import Throttle
from edge_agent.service.wire.rest_json import HttpAnswer, RestJson, Route

CHANGES = ("Create", "Delete", "Start", "Stop", "Tag", "Untag", "Update")
THREADS = 32
HEAD_BYTES = 2**19  # for the server: a query may have 200 tag keys of 128 characters, encoded
BODIES_BYTES = 256 * 2**20  # of all requests that are being read or answered

log = logging.getLogger(__name__)


class ServiceApp:
    """Answers the calls of one service; for any ASGI server without its lifespan protocol.

    `operations`: by their names in the service model.
    """

    def __init__(
        self,
        protocol: RestJson,
        operations: Mapping[str, Operation],
        records: Records,
        authenticator: Authenticator,
        throttle: Throttle,
        audit: AuditLog,
    ) -> None:
        self._protocol = protocol
        self._operations = operations
        self._records = records
        self._authenticator = authenticator
        self._throttle = throttle
        self._audit = audit
        self._bodies = Bodies(BODIES_BYTES)
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="call")

    def close(self) -> None:
        """Wait for the calls that are being answered."""
        self._threads.shutdown()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        request_id = str(uuid.uuid4())
        try:
            answer = await self._answer(Request(scope, receive), request_id)
        except ClientDisconnect:
            return
        headers = {"Content-Type": "application/json", "x-amzn-RequestId": request_id}
        response = Response(answer.body, answer.status, {**headers, **answer.headers})
        await response(scope, receive, send)

    async def _answer(self, request: Request, request_id: str) -> HttpAnswer:
        raw_path = _text(request.scope["raw_path"])
        most_bytes = self._protocol.most_bytes(request.method, raw_path)
        try:
            async with self._bodies.of(request, most_bytes) as body:
                loop = asyncio.get_running_loop()
                return await loop.run_in_executor(
                    self._threads, self._run, _http_request(request, body), request_id
                )
        except ServiceFault as fault:  # of reading; others have become answers
            return self._refusal(fault)

    def _refusal(self, fault: ServiceFault) -> HttpAnswer:
        answer = self._protocol.fault(fault)
        return HttpAnswer(answer.status, answer.body, {**answer.headers, "Connection": "close"})

    def _run(self, request: HttpRequest, request_id: str) -> HttpAnswer:
        """Answer a request whatever happens; runs in a thread."""
        try:
            try:
                return self._operate(request, request_id)
            except ServiceFault as fault:
                return self._protocol.fault(fault)
        except Exception:
            log.exception(
                "%s %s failed; request id %s", request.method, request.raw_path, request_id
            )
            sentence = f"The service failed. Its log says why, at the request id {request_id}."
            return self._protocol.fault(ServiceFault(sentence))

    def _operate(self, request: HttpRequest, request_id: str) -> HttpAnswer:
        principal, body = self._authenticator.verify(request, self._protocol.service)
        route = self._protocol.route(request.method, request.raw_path)
        headers = dict(request.headers)
        parameters = self._protocol.parameters(route, request.raw_query, headers, body)
        name = route.operation.name
        self._throttle.take(principal.account, name)
        call = Call(
            service=self._protocol.service,
            operation=name,
            account=principal.account,
            access_key=principal.access_key,
            region=principal.region,
            request_id=request_id,
            now=time.time(),
            parameters=parameters,
        )
        if name.startswith(CHANGES):
            return self._change(call, route, principal)
        with self._records.read() as transaction:
            return self._protocol.answer(route.operation, self._operations[name](call, transaction))

    def _change(self, call: Call, route: Route, principal: Principal) -> HttpAnswer:
        """Run an operation that changes something, and write the audit line, failed or not."""
        try:
            with self._records.write() as transaction:
                if "ClientToken" not in call.parameters:
                    refuse_replay(transaction, principal, call.now)
                answer = once(call, transaction, self._operations[call.operation])
                written = self._protocol.answer(route.operation, answer)
        except Exception as error:
            code = error.code if isinstance(error, ServiceFault) else ServiceFault.code
            self._audit.record(call, code, {})
            raise
        self._audit.record(call, "OK", answer)
        return written


def _http_request(request: Request, body: bytes) -> HttpRequest:
    scope = request.scope
    return HttpRequest(
        method=scope["method"],
        raw_path=_text(scope["raw_path"]),
        raw_query=_text(scope["query_string"]),
        headers=[(_text(name), _text(value)) for name, value in scope["headers"]],
        body=body,
        peer=request.client.host if request.client else "",
        secure=scope["scheme"] == "https",
    )


def _text(raw: bytes) -> str:
    return raw.decode("latin-1")
