"""Which calls are admitted: every message is read within the memory budget and a time limit.

gRPC reads a unary request before its handler sees the call. Here each method is registered as one
that streams its request, which is the same on the wire, and its only message is read once there is
room for it. What gRPC holds of a call before that is at most one flow-control window. An answer
counts until gRPC has sent it. The call of a caller who is too slow with either is ended.

All of this uses grpc's public interface. What that cannot bound: the connections themselves, about
100 KiB each, and what they send before their first call (see SECURITY.md).
"""

from __future__ import annotations

import logging
import threading
from contextlib import contextmanager
from functools import partial
from typing import Callable, Dict, Iterator, NamedTuple, Optional, Set, TypeVar

import grpc

from edge_agent.errors import AgentUnavailable, InvalidRequest, MalformedMessage
from edge_agent.protocol import MESSAGE_LIMIT_BYTES
from edge_agent.runtime.rpc import status
from edge_agent.runtime.rpc.call_context import CallContext
from edge_agent.runtime.rpc.memory_budget import MIB, Lease, MemoryBudget
from edge_agent.runtime.system import memory

log = logging.getLogger(__name__)

CALL_BYTES = 32 * 1024  # of a call beside its messages: its thread, metadata, objects
SENT_COPIES = 2  # of an answer that waits to be sent: ours and gRPC's
ADMIT_WITHIN_S = 10.0  # a caller waits so long for room before its message is read
HOLD_WITHIN_S = 1.0  # and so long for room for the frame and the answer
OTHER_BYTES = 256 * 1024  # of a message that carries no frame
OTHER_STREAMS = 64  # of health and reflection, open at a time
LOOK_EVERY_S = 0.5
CALM_LOOKS = 10  # after a peak, before its memory is given back
WORTH_GIVING_BACK_BYTES = 64 * MIB
TRIMS = 3  # after a peak: gRPC may free the messages of a call that was ended some time later
REPORT_EVERY_LOOKS = 120


class CallFigures(NamedTuple):
    """Bytes that calls hold and may hold; calls that were ended, by reason, since the start."""

    used_bytes: int
    limit_bytes: int
    slow: int
    evicted: int
    refused: int


Method = Callable[[bytes, CallContext, Lease], bytes]
StreamMethod = Callable[[Iterator[bytes], CallContext, Lease], Iterator[bytes]]
R = TypeVar("R")  # a request, read by protobuf


class Admission:
    """Makes handlers of methods, and wraps those of other services; watches their callers."""

    def __init__(self, limit_bytes: int, receive_within_s: float, send_within_s: float) -> None:
        """`limit_bytes`: of all calls together, half of it for messages that come in."""
        self.receiving = MemoryBudget(limit_bytes // 2)
        self.holding = MemoryBudget(limit_bytes // 2, limit_bytes // 16)  # frames and answers
        self._receive_within_s, self._send_within_s = receive_within_s, send_within_s
        self._own: Set[grpc.RpcMethodHandler] = set()
        self._others = threading.BoundedSemaphore(OTHER_STREAMS)
        self._stopped = threading.Event()
        self._watchdog = threading.Thread(target=self._watch, name="call-watchdog", daemon=True)

    def start(self) -> None:
        """Begin to watch callers."""
        self._watchdog.start()

    def close(self) -> None:
        """Stop watching."""
        self._stopped.set()

    def unary(self, method: Method, most_bytes: int = OTHER_BYTES) -> grpc.RpcMethodHandler:
        """Return a handler of `method`, which takes one message and returns one, as bytes.

        A message beyond `most_bytes` is refused.
        """

        def call(requests: Iterator[bytes], context: CallContext) -> bytes:
            with self._leased(context) as lease:
                content = self._only(requests, context, lease, most_bytes)
                answer = method(content, context, lease)
                lease.resize(CALL_BYTES + SENT_COPIES * len(answer), HOLD_WITHIN_S)
                return answer

        return self._listed(grpc.stream_unary_rpc_method_handler(call))

    def stream(self, method: StreamMethod) -> grpc.RpcMethodHandler:
        """Return a handler of a `method` that reads its messages when it likes.

        Only the first must come in time. Memory for one message is reserved while the call is
        open; what it has read and is about to send is the method's to account for.
        """

        def answers(
            requests: Iterator[bytes], context: CallContext, lease: Lease
        ) -> Iterator[bytes]:
            with self._room(context) as room:
                room.wait_for_caller(self._receive_within_s)
                # No generator of our own: it would hold each message until the next one.
                yield from method(map(partial(_received, room), requests), context, lease)

        return self._listed(self._streaming(answers))

    def interceptor(self) -> grpc.ServerInterceptor:
        """Return what lets one server's other services read under the same rules."""
        return _Interceptor(self._admitted)

    def _admitted(self, handler: grpc.RpcMethodHandler) -> grpc.RpcMethodHandler:
        return handler if handler in self._own else self._wrapped(handler)

    def _listed(self, handler: grpc.RpcMethodHandler) -> grpc.RpcMethodHandler:
        self._own.add(handler)
        return handler

    @contextmanager
    def _leased(self, context: CallContext) -> Iterator[Lease]:
        """Hold a lease for the call until it is over; a failure becomes its status."""
        lease = self.holding.lease(context.cancel)
        if not context.add_callback(lease.done):
            lease.end()
        try:
            lease.resize(CALL_BYTES)
            yield lease
        except (GeneratorExit, grpc.RpcError):
            raise
        except Exception as error:
            lease.shrink(CALL_BYTES)
            if not context.code():  # aborted already
                status.abort(context, error)
            raise
        finally:
            lease.wait_for_caller(self._send_within_s)

    @contextmanager
    def _room(self, context: CallContext) -> Iterator[Lease]:
        """Keep room for a message that comes in."""
        room = self.receiving.lease(context.cancel)
        try:
            room.resize(MESSAGE_LIMIT_BYTES, ADMIT_WITHIN_S)
            yield room
        finally:
            room.end()

    def _read(
        self, requests: Iterator[bytes], context: CallContext, lease: Lease, most_bytes: int
    ) -> Optional[bytes]:
        """Return the next message, which `lease` holds from now on; None when none comes."""
        with self._room(context) as room:
            room.wait_for_caller(self._receive_within_s)
            content = next(requests, None)
            room.work()
        if content is not None:
            if len(content) > most_bytes:
                raise InvalidRequest(
                    f"The message has {len(content)} bytes; this method takes at most {most_bytes}."
                )
            lease.resize(CALL_BYTES + len(content), HOLD_WITHIN_S)
        return content

    def _only(
        self, requests: Iterator[bytes], context: CallContext, lease: Lease, most_bytes: int
    ) -> bytes:
        """Return the message of a method that takes one."""
        content = self._read(requests, context, lease, most_bytes)
        if content is None:
            text = "The method takes exactly one message."
            context.abort(grpc.StatusCode.UNIMPLEMENTED, text)
        return content

    def _messages(
        self, requests: Iterator[bytes], context: CallContext, lease: Lease
    ) -> Iterator[bytes]:
        while (content := self._read(requests, context, lease, OTHER_BYTES)) is not None:
            yield content

    def _streaming(self, method: StreamMethod) -> grpc.RpcMethodHandler:
        def call(requests: Iterator[bytes], context: CallContext) -> Iterator[bytes]:
            with self._leased(context) as lease:
                for answer in method(requests, context, lease):
                    lease.wait_for_caller(self._send_within_s)
                    yield answer
                    lease.work()

        return grpc.stream_stream_rpc_method_handler(call)

    def _wrapped(self, handler: grpc.RpcMethodHandler) -> grpc.RpcMethodHandler:
        """Return `handler`, which knows nothing of leases, under our rules."""
        read, write = handler.request_deserializer, handler.response_serializer

        def unary(content: bytes, context: CallContext, _lease: Lease) -> bytes:
            return bytes(write(handler.unary_unary(_parsed(read, content), context)))

        def answers(
            requests: Iterator[bytes], context: CallContext, lease: Lease
        ) -> Iterator[bytes]:
            if handler.request_streaming:
                contents = self._messages(requests, context, lease)
                messages = (_parsed(read, content) for content in contents)
                found = handler.stream_stream(messages, context)
            else:
                content = self._only(requests, context, lease, OTHER_BYTES)
                found = handler.unary_stream(_parsed(read, content), context)
            for answer in map(write, found):
                lease.resize(CALL_BYTES + SENT_COPIES * len(answer))
                yield answer

        def counted(
            requests: Iterator[bytes], context: CallContext, lease: Lease
        ) -> Iterator[bytes]:
            if not self._others.acquire(blocking=False):
                raise AgentUnavailable(
                    f"{OTHER_STREAMS} calls of this kind are open; close some of them."
                )
            try:
                yield from answers(requests, context, lease)
            finally:
                self._others.release()

        return self._streaming(counted) if handler.response_streaming else self.unary(unary)

    def _watch(self) -> None:
        high = calm = looks = trims = 0
        seen = reported = self.figures()
        while not self._stopped.wait(LOOK_EVERY_S):
            for budget in (self.receiving, self.holding):
                budget.cancel_overdue()
            # Room for messages that come in is reserved, not taken, unless they stall.
            now = self.figures()
            stalled = now.slow + now.evicted - seen.slow - seen.evicted
            peak, seen = self.holding.take_peak() + stalled * MESSAGE_LIMIT_BYTES, now
            high, calm = (high, calm + 1) if peak <= high else (peak, 0)
            if calm > CALM_LOOKS:
                if high - peak >= WORTH_GIVING_BACK_BYTES:
                    trims = TRIMS
                if trims:
                    memory.give_back()
                    trims -= 1
                high, calm = peak, 0
            looks += 1
            if looks % REPORT_EVERY_LOOKS == 1:
                reported = self._report(reported)

    def figures(self) -> CallFigures:
        """Return what calls hold, and how many were ended since the start."""
        budgets = self.receiving, self.holding
        return CallFigures(
            sum(each.used_bytes for each in budgets),
            sum(each.limit_bytes for each in budgets),
            sum(each.overdue for each in budgets),
            sum(each.evicted for each in budgets),
            sum(each.refused for each in budgets),
        )

    def _report(self, before: CallFigures) -> CallFigures:
        """Log the calls that were ended since the last time."""
        now = self.figures()
        if now[2:] != before[2:]:
            log.warning(
                "Calls were ended: %d were too slow to send or to read, %d were slow while memory "
                "was short, %d were refused because server.memory_mib was used up.",
                now.slow - before.slow,
                now.evicted - before.evicted,
                now.refused - before.refused,
            )
        return now


class _Interceptor(grpc.ServerInterceptor):  # type: ignore[misc]
    """Has each handler of a server wrapped once, by `admitted`."""

    def __init__(self, admitted: Callable[[grpc.RpcMethodHandler], grpc.RpcMethodHandler]) -> None:
        self._admitted = admitted
        self._handlers: Dict[str, grpc.RpcMethodHandler] = {}  # by path

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Optional[grpc.RpcMethodHandler]],
        details: grpc.HandlerCallDetails,
    ) -> Optional[grpc.RpcMethodHandler]:
        """Return the handler of a call."""
        handler = self._handlers.get(details.method)
        if handler is None:
            handler = continuation(details)
            if handler is not None:
                handler = self._handlers[details.method] = self._admitted(handler)
        return handler


def _received(room: Lease, content: bytes) -> bytes:
    """Return a message; the first one shows that the caller sends, and ends its time limit."""
    room.work()
    return content


def _parsed(read: Callable[[bytes], R], content: bytes) -> R:
    try:
        return read(content)
    except Exception:
        raise MalformedMessage("The request isn't the message of this method.") from None
