"""Unary calls, answered by the threads that read them.

grpc's own Python server passes a call from hand to hand: one thread polls, a second is woken for
the call and waits until the first has read its message. On a machine whose cores sleep each of
these wake-ups takes 0.1 ms. Here the thread that reads a message answers it.

The calls come through a completion queue of their own at gRPC's core, used as `grpc._server` uses
its own for all others. That lies below grpc's public interface: `Unsupported` says when a version
has it no longer.
"""

from __future__ import annotations

import logging
import threading
import time
from functools import partial
from typing import Any, Callable, Dict, List, Mapping, NoReturn, Optional, Tuple

import grpc

from edge_agent.runtime.rpc import handler_threads
from edge_agent.runtime.rpc.pollers import Pollers

log = logging.getLogger(__name__)

Method = Callable[[bytes, Any], bytes]
Outcome = Tuple[Optional[bytes], grpc.StatusCode, str]  # answer, status and its text

NO_FLAGS = 0
ASKED_AHEAD = 2  # calls of a method: a next one can come while one is answered
TAKING_S, TAKING_TIMES = 0.02, 10


class Unsupported(Exception):
    """Raised when a version of grpc gives nobody a completion queue of his own."""


class UnaryCalls:
    """Answers calls of `methods`, path → method, for a server that isn't started yet.

    A method takes the request's bytes and the `Call` and returns the answer's bytes. At most
    `limit` calls are in work; what comes beyond is refused with RESOURCE_EXHAUSTED.
    """

    def __init__(self, server: grpc.Server, methods: Mapping[str, Method], limit: int) -> None:
        try:
            from grpc._cython import cygrpc

            self._core = server._state.server
            self._request_call = self._core.request_registered_call
            register = self._core.register_method
        except (ImportError, AttributeError) as error:
            raise Unsupported(f"grpcio {grpc.__version__}: {error}") from None
        self._cygrpc = cygrpc
        self._methods = methods
        self._limit = limit
        self._queue = cygrpc.CompletionQueue()
        self._core.register_completion_queue(self._queue)
        for path in methods:
            register(path)
        self._lock = threading.Lock()
        self._taken = self._unanswered = 0
        self._asked = dict.fromkeys(methods, ASKED_AHEAD)  # calls that the core may hand over
        self._closed = False
        self._pollers = Pollers(self._poll)

    def start(self) -> None:
        """Answer calls; the server has been started."""
        for path in self._methods:
            for _ in range(ASKED_AHEAD):
                self._ask(path)
        self._pollers.start()

    def take_all(self) -> None:
        """Take calls that have come, until no more do; the server is about to refuse them."""
        self._pollers.hurry()
        for _ in range(TAKING_TIMES):  # one who calls again and again mustn't put off the end
            before = self._taken
            time.sleep(TAKING_S)
            if self._taken == before:
                return

    def close(self) -> None:
        """End the threads; the server has stopped, and no call comes any more."""
        self._pollers.end()
        with self._lock:
            self._closed = True
            at_rest = not self._unanswered
        if at_rest:  # gRPC's core ends the process when something is sent through a closed queue
            self._queue.shutdown()

    def _poll(self, within_s: float) -> bool:
        event = self._queue.poll(time.time() + within_s)
        if event.tag is None:
            return False  # nothing came
        event.tag(event)
        return True

    def _ask(self, path: str) -> None:
        """Let gRPC's core hand over one more call; it is counted in `_asked` already."""
        try:
            self._request_call(self._queue, self._queue, path, partial(self._accept, path))
        except ValueError:
            return  # the server stops
        except BaseException:
            with self._lock:
                self._asked[path] -= 1
            raise

    def _accept(self, path: str, event: Any) -> None:
        if not event.success:
            return  # the server stops
        with self._lock:
            if self._closed:
                return
            self._taken += 1
            self._unanswered += 1
            too_many = self._unanswered > self._limit
            was_last = self._asked[path] == 1
            self._asked[path] -= not was_last
        try:
            if was_last:
                self._ask(path)
            call = Call(self._cygrpc, event, path)
            call.watch()  # first: once it is answered the queue may be closed
            if not too_many:
                call.read(partial(self._answer, call))
        except BaseException:
            event.call.cancel()
            self._done(path)
            raise
        if too_many:
            refusal = grpc.StatusCode.RESOURCE_EXHAUSTED, "Too many calls at a time."
            self._end(call, None, *refusal)

    def _answer(self, call: Call, event: Any) -> None:
        content = event.batch_operations[0].message()
        self._pollers.begin_work()
        try:
            handler_threads.accepted_at(call.accepted)
            self._end(call, *self._outcome(call, content))
        finally:
            self._pollers.rest()

    def _outcome(self, call: Call, content: Optional[bytes]) -> Outcome:
        if content is None:
            text = f"{call.path} takes exactly one message."
            return None, grpc.StatusCode.UNIMPLEMENTED, text
        try:
            return self._methods[call.path](content, call), grpc.StatusCode.OK, ""
        except Aborted as aborted:
            return None, aborted.code, aborted.text
        except BaseException:
            log.exception("A call of %s failed.", call.path)
            return None, grpc.StatusCode.INTERNAL, "Internal fault; the agent's log says more."

    def _end(self, call: Call, answer: Optional[bytes], code: grpc.StatusCode, text: str) -> None:
        try:
            call.end(answer, code, text)
        finally:
            self._done(call.path)

    def _done(self, path: str) -> None:
        with self._lock:
            self._unanswered -= 1
            are_few = self._asked[path] < ASKED_AHEAD
            self._asked[path] += are_few
        if are_few:
            self._ask(path)


def public_handlers(methods: Mapping[str, Method]) -> Tuple[grpc.GenericRpcHandler, ...]:
    """Return what makes grpc's own server answer `methods`, path → method."""
    by_service: Dict[str, Dict[str, grpc.RpcMethodHandler]] = {}
    for path, method in methods.items():
        _, service, name = path.split("/")
        by_service.setdefault(service, {})[name] = grpc.unary_unary_rpc_method_handler(method)
    return tuple(grpc.method_handlers_generic_handler(*entry) for entry in by_service.items())


class Aborted(Exception):
    """A method ended its call with a status."""

    def __init__(self, code: grpc.StatusCode, text: str) -> None:
        super().__init__(text)
        self.code, self.text = code, text


class Call:
    """A call, and what its method may ask of it: names and meanings of grpc.ServicerContext."""

    def __init__(self, cygrpc: Any, event: Any, path: str) -> None:
        self.accepted = time.monotonic()
        self.path = path
        self._cygrpc = cygrpc
        self._call = event.call
        self._metadata = event.invocation_metadata
        self._deadline: float = event.call_details.deadline  # seconds since 1970, or infinite
        self._trailing: Tuple[Tuple[str, str], ...] = ()
        self._lock = threading.Lock()
        self._when_gone: Optional[List[Callable[[], object]]] = []  # None: the call is over

    def invocation_metadata(self) -> Any:
        """Return pairs of key and value that came with the call."""
        return self._metadata

    def peer(self) -> str:
        """Return who calls, as gRPC writes addresses."""
        address = self._call.peer()
        return address.decode() if isinstance(address, bytes) else str(address)

    def time_remaining(self) -> float:
        """Return the seconds until the caller's deadline, infinite without one."""
        return max(0.0, self._deadline - time.time())

    def add_callback(self, callback: Callable[[], object]) -> bool:
        """Call back when the call is over; return False when it is already."""
        with self._lock:
            if self._when_gone is None:
                return False
            self._when_gone.append(callback)
            return True

    def set_trailing_metadata(self, metadata: Tuple[Tuple[str, str], ...]) -> None:
        """Send `metadata` after the answer."""
        self._trailing = metadata

    def abort(self, code: grpc.StatusCode, text: str) -> NoReturn:
        """End the call with this status."""
        raise Aborted(code, text)

    def watch(self) -> None:
        """Notice when the call is over."""
        operation = self._cygrpc.ReceiveCloseOnServerOperation(NO_FLAGS)
        self._call.start_server_batch((operation,), self._over)

    def read(self, then: Callable[[Any], None]) -> None:
        """Read the message and hand the event to `then`."""
        operation = self._cygrpc.ReceiveMessageOperation(NO_FLAGS)
        self._call.start_server_batch((operation,), then)

    def end(self, answer: Optional[bytes], code: grpc.StatusCode, text: str) -> None:
        """Send the answer, if any, and the status; nothing to a caller who has gone."""
        if self._when_gone is None:
            return
        status = code.value[0], text.encode()
        operations = [
            self._cygrpc.SendInitialMetadataOperation((), NO_FLAGS),
            self._cygrpc.SendStatusFromServerOperation(self._trailing, *status, NO_FLAGS),
        ]
        if answer is not None:
            operations.append(self._cygrpc.SendMessageOperation(answer, NO_FLAGS))
        self._call.start_server_batch(operations, _sent)

    def _over(self, _event: Any) -> None:
        with self._lock:
            callbacks, self._when_gone = self._when_gone or [], None
        for callback in callbacks:
            try:
                callback()
            except Exception:
                log.exception("What a call left to do when it is over failed.")


def _sent(_event: Any) -> None:
    """Nothing is left to do."""
