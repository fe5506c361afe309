"""One short method a call: convert, ask the detector, convert."""

from __future__ import annotations

import logging
import threading
from contextlib import contextmanager
from functools import lru_cache
from typing import Dict, Iterator, Optional

import grpc
from google.protobuf.message import Message

from edge_agent import protocol
from edge_agent.errors import AgentUnavailable, EdgeAgentError
from edge_agent.runtime.detector import Detector
from edge_agent.runtime.metrics import Metrics
from edge_agent.runtime.rpc import convert, metadata, zero_copy
from edge_agent.runtime.rpc.admission import Admission, Method
from edge_agent.runtime.rpc.call_context import CallContext, parse
from edge_agent.runtime.rpc.frame_calls import FrameCalls, Respond
from edge_agent.runtime.rpc.frame_stream import FrameStream
from edge_agent.runtime.rpc.handler_threads import HandlerThreads, waited_s
from edge_agent.runtime.rpc.memory_budget import Lease
from edge_agent.runtime.rpc.roles import Role
from edge_agent.runtime.system import stalls
from edge_agent.types import FrameRequest
from edge_agent.wire import edge_agent_pb2 as wire

log = logging.getLogger(__name__)

PARSED_COPIES = 2  # of a message that protobuf reads: in the message, and of its parts
REPEATED_BYTES, REPEATED_CALLS = 1024, 1024
SILENT_S = 60.0  # a stream without a frame for so long is ended when another one needs its place
STREAMS_AT_ONCE = 64  # each has threads of its own


class Servicer:
    """The calls of both services."""

    def __init__(
        self, detector: Detector, metrics: Metrics, threads: HandlerThreads, admission: Admission
    ) -> None:
        self._detector = detector
        self._frames = FrameCalls(detector, metrics)
        self._threads, self._admission = threads, admission
        # Each stream reserves memory for one message; half of it stays free for other calls.
        messages = admission.receiving.limit_bytes // 2 // protocol.MESSAGE_LIMIT_BYTES
        self._most_streams = max(1, min(STREAMS_AT_ONCE, messages))
        self._in_flight = 0
        self._streams: Dict[FrameStream, None] = {}
        self._stopping = False
        self._changed = threading.Condition()

    def finish(self, within_s: float) -> None:
        """End the streams; return when no call is in flight, or `within_s` are over."""
        with self._changed:
            self._stopping = True
            streams = list(self._streams)
        for stream in streams:
            stream.end()
        with self._changed:
            self._changed.wait_for(lambda: not (self._in_flight or self._streams), within_s)

    def handler(self, role: Role) -> grpc.GenericRpcHandler:
        """Return what answers the calls of one server."""
        unary = self._admission.unary
        control: Dict[str, Method] = {
            protocol.START_MODEL: _for_operators(role, self.start_model),
            protocol.STOP_MODEL: _for_operators(role, self.stop_model),
            protocol.LIST_MODELS: self.list_models,
            protocol.DESCRIBE_MODEL: self.describe_model,
        }
        frames: Dict[str, Method] = {
            protocol.DETECT_ANOMALIES: self._detecting(convert.detect_answer),
            protocol.INSPECT: self._detecting(convert.inspect_answer),
        }
        return _Handler(
            {
                **{
                    path: unary(self._counted(_logged(path, method)))
                    for path, method in control.items()
                },
                **{
                    path: unary(self._counted(method), protocol.MESSAGE_LIMIT_BYTES)
                    for path, method in frames.items()
                },
                protocol.STREAM_DETECT: self._admission.stream(self.stream_detect),
            }
        )

    def start_model(self, content: bytes, _context: CallContext, _lease: Lease) -> bytes:
        """Start to load a model."""
        request = parse(wire.StartModelRequest, content)
        return _bytes(convert.started(self._detector.start(request.model_component)))

    def stop_model(self, content: bytes, _context: CallContext, _lease: Lease) -> bytes:
        """Stop a model and wait until it is freed."""
        request = parse(wire.StopModelRequest, content)
        return _bytes(convert.stopped(self._detector.stop(request.model_component)))

    def list_models(self, content: bytes, _context: CallContext, _lease: Lease) -> bytes:
        """List all models."""
        parse(wire.ListModelsRequest, content)
        return _bytes(convert.model_list(self._detector.list()))

    def describe_model(self, content: bytes, _context: CallContext, _lease: Lease) -> bytes:
        """Describe one model."""
        request = parse(wire.DescribeModelRequest, content)
        return _bytes(convert.description(self._detector.describe(request.model_component)))

    def stream_detect(
        self, requests: Iterator[bytes], context: CallContext, _lease: Lease
    ) -> Iterator[bytes]:
        """Judge the frames of a stream, side by side and in order."""
        stream = FrameStream(self._frames, self._threads, self._admission.holding, context)
        with self._listed(stream):
            yield from stream.answers(requests)

    def _detecting(self, respond: Respond[bytes]) -> Method:
        def detect(content: bytes, context: CallContext, lease: Lease) -> bytes:
            is_small = len(content) <= REPEATED_BYTES
            request = _read_cached(content) if is_small else _read_large(content, lease)
            caller = metadata.unary_caller(request.bitmap, context)
            answer, trailing, count = self._frames.judge(
                request, caller, waited_s(), lease, respond
            )
            context.set_trailing_metadata(trailing)
            if not context.add_callback(count):  # after the answer is sent
                count()
            return answer

        return detect

    def _counted(self, method: Method) -> Method:
        """Count calls in flight, for which the stop waits."""

        def call(content: bytes, context: CallContext, lease: Lease) -> bytes:
            self._begin()
            try:
                return method(content, context, lease)
            finally:
                self._finish()

        return call

    def _begin(self) -> None:
        with self._changed:
            self._in_flight += 1

    def _finish(self) -> None:
        with self._changed:
            self._in_flight -= 1
            if not self._in_flight:
                self._changed.notify_all()

    @contextmanager
    def _listed(self, stream: FrameStream) -> Iterator[None]:
        with self._changed:
            if len(self._streams) >= self._most_streams:
                self._end_silent_stream()
            if self._stopping or len(self._streams) >= self._most_streams:
                raise AgentUnavailable(f"{len(self._streams)} streams are open; try again later.")
            self._streams[stream] = None
        try:
            yield
        finally:
            with self._changed:
                self._streams.pop(stream, None)
                self._changed.notify_all()

    def _end_silent_stream(self) -> None:
        """Cancel the stream that has been silent for longest, if it is longer than SILENT_S."""
        silent = min(self._streams, key=lambda stream: stream.received_s)
        if stalls.ran_s(silent.received_s) > SILENT_S:
            del self._streams[silent]
            silent.cancel()


class _Handler(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Finds the handler of a call by its path."""

    def __init__(self, handlers: Dict[str, grpc.RpcMethodHandler]) -> None:
        self._handlers = handlers

    def service(self, details: grpc.HandlerCallDetails) -> Optional[grpc.RpcMethodHandler]:
        """Return the handler, None when there is no such method."""
        return self._handlers.get(details.method)


def _logged(path: str, method: Method) -> Method:
    """Log at DEBUG what becomes of each call."""
    name = path.rpartition("/")[2]

    def call(content: bytes, context: CallContext, lease: Lease) -> bytes:
        try:
            answer = method(content, context, lease)
        except EdgeAgentError as error:
            log.debug("%s: refused with %s: %s", name, error.status, error)
            raise
        log.debug("%s: answered.", name)
        return answer

    return call


def _for_operators(role: Role, method: Method) -> Method:
    """Restrict `method` to callers who may start and stop models."""

    def call(content: bytes, context: CallContext, lease: Lease) -> bytes:
        role.check(context)
        return method(content, context, lease)

    return call


def _read(content: bytes) -> FrameRequest:
    request = parse(wire.DetectAnomaliesRequest, content)
    zero_copy.check_names_bytes(len(content), request)
    return convert.frame_request(request)


# Over shared memory a camera sends the same bytes for every frame.
_read_cached = lru_cache(maxsize=REPEATED_CALLS)(_read)


def _read_large(content: bytes, lease: Lease) -> FrameRequest:
    parts = zero_copy.split_pixels(content)
    if parts is None:
        lease.add(PARSED_COPIES * len(content))
        return _read(content)
    rest, pixels = parts
    request = _read(rest)
    assert request.bitmap is not None
    return request._replace(bitmap=request.bitmap._replace(data=pixels))


def _bytes(message: Message) -> bytes:
    content: bytes = message.SerializeToString()
    return content
