"""One short method a call: convert, ask the detector, convert."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, Dict, Iterator, Tuple

import grpc
from google.protobuf.message import DecodeError

from edge_agent.errors import AgentUnavailable, MalformedMessage
from edge_agent.runtime.detector import Detector
from edge_agent.runtime.metrics import Metrics
from edge_agent.runtime.rpc import convert, metadata, pixels
from edge_agent.runtime.rpc.admission import MESSAGE_LIMIT_BYTES, Admission, Method
from edge_agent.runtime.rpc.frame_calls import FrameCalls, Respond
from edge_agent.runtime.rpc.frame_stream import FrameStream
from edge_agent.runtime.rpc.handler_threads import HandlerThreads, waited_s
from edge_agent.runtime.rpc.memory_budget import Lease
from edge_agent.runtime.rpc.roles import Role
from edge_agent.types import Wanted
from edge_agent.wire import edge_agent_pb2 as wire

CONTRACT_SERVICE = "AWS.LookoutVision.EdgeAgent"
INSPECTOR_SERVICE = "edge_agent.v1.Inspector"
PARSED_COPIES = 2  # of a message that protobuf reads: in the message, and of its parts
REPEATED_BYTES, REPEATED_CALLS = 1024, 1024
SILENT_S = 60.0  # a stream without a frame for so long makes place for another
STREAMS_AT_ONCE = 64  # each has threads of its own


class Servicer:
    """The calls of both services."""

    def __init__(
        self, detector: Detector, metrics: Metrics, threads: HandlerThreads, admission: Admission
    ) -> None:
        self._detector = detector
        self._frames = FrameCalls(detector, metrics)
        self._threads, self._admission = threads, admission
        # Each stream keeps room for one message; half of the room stays for other calls.
        room = admission.receiving.limit_bytes // 2 // MESSAGE_LIMIT_BYTES
        self._most_streams = max(1, min(STREAMS_AT_ONCE, room))
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

    def handlers(self, role: Role) -> Tuple[grpc.GenericRpcHandler, ...]:
        """Return what answers the calls of one server: one generic handler a service."""
        unary, detecting = self._admission.unary, self._detecting
        others: Dict[str, Method] = {
            "StartModel": _operating(role, self.start_model),
            "StopModel": _operating(role, self.stop_model),
            "ListModels": self.list_models,
            "DescribeModel": self.describe_model,
        }
        contract = {name: unary(self._counted(method)) for name, method in others.items()}
        detect = self._counted(detecting(convert.detect_answer))
        contract["DetectAnomalies"] = unary(detect, MESSAGE_LIMIT_BYTES)
        inspect = self._counted(detecting(convert.inspect_answer))
        own = {
            "Inspect": unary(inspect, MESSAGE_LIMIT_BYTES),
            "StreamDetect": self._admission.stream(self.stream_detect),
        }
        return (
            grpc.method_handlers_generic_handler(CONTRACT_SERVICE, contract),
            grpc.method_handlers_generic_handler(INSPECTOR_SERVICE, own),
        )

    def start_model(self, content: bytes, _context: Any, _lease: Lease) -> bytes:
        """Begin to load a model."""
        request = _parse(wire.StartModelRequest, content)
        return _bytes(convert.started(self._detector.start(request.model_component)))

    def stop_model(self, content: bytes, _context: Any, _lease: Lease) -> bytes:
        """Stop a model and wait until it is freed."""
        request = _parse(wire.StopModelRequest, content)
        return _bytes(convert.stopped(self._detector.stop(request.model_component)))

    def list_models(self, content: bytes, _context: Any, _lease: Lease) -> bytes:
        """List all models."""
        _parse(wire.ListModelsRequest, content)
        return _bytes(convert.model_list(self._detector.list()))

    def describe_model(self, content: bytes, _context: Any, _lease: Lease) -> bytes:
        """Describe one model."""
        request = _parse(wire.DescribeModelRequest, content)
        return _bytes(convert.description(self._detector.describe(request.model_component)))

    def stream_detect(
        self, requests: Iterator[bytes], context: Any, _lease: Lease
    ) -> Iterator[bytes]:
        """Judge the frames of a stream, side by side and in order."""
        stream = FrameStream(self._frames, self._threads, self._admission.holding, context)
        with self._listed(stream):
            yield from stream.answers(requests)

    def _detecting(self, respond: Respond) -> Method:
        def detect(content: bytes, context: Any, lease: Lease) -> bytes:
            wanted = (
                _read_again(content)
                if len(content) <= REPEATED_BYTES
                else _read_large(content, lease)
            )
            caller = metadata.unary_caller(wanted.bitmap, context)
            answer, beside, count = self._frames.judge(wanted, caller, waited_s(), lease, respond)
            context.set_trailing_metadata(beside)
            if not context.add_callback(count):  # after the answer is sent
                count()
            return bytes(answer)

        return detect

    def _counted(self, method: Method) -> Method:
        """Count calls in flight, for which the stop waits."""

        def call(content: bytes, context: Any, lease: Lease) -> bytes:
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
                self._make_place()
            if self._stopping or len(self._streams) >= self._most_streams:
                raise AgentUnavailable(f"{len(self._streams)} streams are open; try again later.")
            self._streams[stream] = None
        try:
            yield
        finally:
            with self._changed:
                self._streams.pop(stream, None)
                self._changed.notify_all()

    def _make_place(self) -> None:
        """Cut off the stream that has been silent for longest, if it has been for long."""
        silent = min(self._streams, key=lambda stream: stream.heard_s)
        if time.monotonic() - silent.heard_s > SILENT_S:
            del self._streams[silent]
            silent.cut_off()


def _operating(role: Role, method: Method) -> Method:
    """Let only those call `method` who may start and stop models."""

    def call(content: bytes, context: Any, lease: Lease) -> bytes:
        role.check(context)
        return method(content, context, lease)

    return call


def _read(content: bytes) -> Wanted:
    request = _parse(wire.DetectAnomaliesRequest, content)
    pixels.check_rest(len(content), request)
    return convert.wanted(request)


# Over shared memory a camera sends the same bytes for every frame.
_read_again = lru_cache(maxsize=REPEATED_CALLS)(_read)


def _read_large(content: bytes, lease: Lease) -> Wanted:
    parts = pixels.split(content)
    if parts is None:
        lease.add(PARSED_COPIES * len(content))
        return _read(content)
    rest, data = parts
    wanted = _read(rest)
    assert wanted.bitmap is not None
    return wanted._replace(bitmap=wanted.bitmap._replace(data=data))


def _parse(request_class: Any, content: bytes) -> Any:
    try:
        return request_class.FromString(content)
    except DecodeError:
        name = request_class.DESCRIPTOR.full_name
        raise MalformedMessage(f"The request isn't a {name}.") from None


def _bytes(message: Any) -> bytes:
    content: bytes = message.SerializeToString()
    return content
