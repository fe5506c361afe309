"""The ASGI application: what happens to a call between its request and its answer.

The signature is checked before anything else is said about a request, and what its head says of it
before the body is read. Operations run in threads, in one transaction each; what changes something
is answered after its commit. Calls that change something have threads of their own, where they wait
for each other: the others don't wait for them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Callable, Mapping, Optional, TypeVar, Union

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from edge_agent.service.audit import AuditEntry, AuditLog, ids_in_path, ids_of
from edge_agent.service.auth.authenticator import Authenticator, Principal
from edge_agent.service.auth.claims import Claim, claimed_key
from edge_agent.service.auth.http_request import HttpRequest
from edge_agent.service.auth.refusals import NotAuthenticated
from edge_agent.service.auth.replays import refuse_replay, use_up
from edge_agent.service.bodies import Bodies, drain
from edge_agent.service.call import Answer, Call, Operation
from edge_agent.service.connections import connection_of
from edge_agent.service.faults import RecordsFailed, ServiceFault
from edge_agent.service.records.client_tokens import once
from edge_agent.service.records.database import Records, Transaction
from edge_agent.service.throttle import Throttle
from edge_agent.service.wire.rest_json import HttpAnswer, RestJson, Route

CHANGES = ("Create", "Delete", "Start", "Stop", "Tag", "Untag", "Update")
READERS, WRITERS = 32, 8  # threads
BODIES_BYTES = 256 * 2**20  # of all requests that are being read or answered

log = logging.getLogger(__name__)
Result = TypeVar("Result")


class ServiceApp:
    """Answers the calls of one service; for uvicorn with `HttpConnection`, without its lifespan.

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
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="reader")
        self._writers = ThreadPoolExecutor(WRITERS, thread_name_prefix="writer")

    def close(self) -> None:
        """Wait for the calls that are being answered."""
        self._readers.shutdown()
        self._writers.shutdown()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        connection_of(scope).head_came()
        request_id = str(uuid.uuid4())
        try:
            answer = await self._answer(Request(scope, receive), request_id)
        except ClientDisconnect:
            return
        headers = {"Content-Type": "application/json", "x-amzn-RequestId": request_id}
        response = Response(answer.body, answer.status, {**headers, **answer.headers})
        await response(scope, receive, send)

    async def _answer(self, request: Request, request_id: str) -> HttpAnswer:
        head = _http_request(request)
        entry = self._entry(head, request_id)
        loop = asyncio.get_running_loop()
        if _has_body(request):
            admitted = await loop.run_in_executor(self._readers, self._admit, head, entry)
            if isinstance(admitted, HttpAnswer):
                await drain(request)
                return _closing(admitted)
        connection_of(request.scope).admitted()
        most_bytes = self._protocol.most_bytes(head.method, head.raw_path)
        threads = self._writers if entry.is_change else self._readers
        try:
            async with self._bodies.of(request, most_bytes) as body:
                whole = replace(head, body=body)
                return await loop.run_in_executor(threads, self._run, whole, entry)
        except ServiceFault as fault:  # of reading; others have become answers
            return _closing(self._protocol.fault(fault))

    def _entry(self, head: HttpRequest, request_id: str) -> AuditEntry:
        route = self._protocol.find(head.method, head.raw_path)
        entry = AuditEntry(request_id, time.time(), head.peer, claimed_key(head))
        if route is not None:
            entry.operation = f"{self._protocol.service}:{route.operation.name}"
            entry.is_change = route.operation.name.startswith(CHANGES)
            entry.ids = ids_in_path(route.labels)
        return entry

    def _admit(self, head: HttpRequest, entry: AuditEntry) -> Union[Optional[Claim], HttpAnswer]:
        """Return the refusal of a call whose head is wrong already; runs in a thread."""
        return self._answered(
            lambda: self._authenticator.admit(head, self._protocol.service), entry
        )

    def _run(self, request: HttpRequest, entry: AuditEntry) -> HttpAnswer:
        """Answer a request; runs in a thread."""
        return self._answered(lambda: self._operate(request, entry), entry)

    def _answered(self, step: Callable[[], Result], entry: AuditEntry) -> Union[Result, HttpAnswer]:
        """Return what a step returns, or the answer to what it raises, which is written down."""
        try:
            try:
                return step()
            except ServiceFault as fault:
                return self._refusal(fault, entry)
        except Exception:
            log.exception("%s failed; request id %s", entry.operation, entry.request_id)
            sentence = (
                f"The service failed. Its log says why, at the request id {entry.request_id}."
            )
            return self._refusal(ServiceFault(sentence), entry)

    def _refusal(self, fault: ServiceFault, entry: AuditEntry) -> HttpAnswer:
        answer = self._protocol.fault(fault)
        if entry.is_change:
            self._audit.refused(entry, fault.code)
        return answer

    def _operate(self, request: HttpRequest, entry: AuditEntry) -> HttpAnswer:
        principal, body = self._authenticator.verify(request, self._protocol.service)
        entry.account, entry.region = principal.account, principal.region
        route = self._protocol.route(request.method, request.raw_path)
        headers = dict(request.headers)
        parameters = self._protocol.parameters(route, request.raw_query, headers, body)
        entry.ids = ids_of(parameters)
        name = route.operation.name
        self._throttle.take(principal.account, name)
        call = Call(
            service=self._protocol.service,
            operation=name,
            account=principal.account,
            access_key=principal.access_key,
            region=principal.region,
            request_id=entry.request_id,
            now=entry.time,
            parameters=parameters,
        )
        if entry.is_change:
            return self._change(call, route, principal, entry)
        with self._records.read() as transaction:
            return self._protocol.answer(route.operation, self._operations[name](call, transaction))

    def _change(
        self, call: Call, route: Route, principal: Principal, entry: AuditEntry
    ) -> HttpAnswer:
        """Run an operation that changes something, once for a signature or a client token."""
        repeatable = "ClientToken" not in route.operation.input_shape.members

        def act(call: Call, transaction: Transaction) -> Answer:
            refuse_replay(transaction, principal, call.now, repeatable)
            return self._operations[call.operation](call, transaction)

        try:
            with self._records.write() as transaction:
                answer = once(call, transaction, act)
                entry.ids = {**entry.ids, **ids_of(answer)}
                self._audit.keep(transaction, entry)
                return self._protocol.answer(route.operation, answer)
        except (NotAuthenticated, RecordsFailed):
            raise
        except ServiceFault:
            with contextlib.suppress(RecordsFailed), self._records.write() as transaction:
                use_up(transaction, principal, call.now, acted=False)
            raise


def _closing(answer: HttpAnswer) -> HttpAnswer:
    return HttpAnswer(answer.status, answer.body, {**answer.headers, "Connection": "close"})


def _has_body(request: Request) -> bool:
    length = request.headers.get("content-length", "0")
    return length != "0" or "transfer-encoding" in request.headers


def _http_request(request: Request) -> HttpRequest:
    """Return a request as it came, without its body."""
    scope = request.scope
    return HttpRequest(
        method=scope["method"],
        raw_path=_text(scope["raw_path"]),
        raw_query=_text(scope["query_string"]),
        headers=[(_text(name), _text(value)) for name, value in scope["headers"]],
        body=b"",
        peer=request.client.host if request.client else "",
        secure=scope["scheme"] == "https",
    )


def _text(raw: bytes) -> str:
    return raw.decode("latin-1")
