"""One short method a call: convert, ask the detector, convert."""

from __future__ import annotations

import threading
from concurrent.futures import CancelledError
from contextlib import contextmanager
from typing import Any, Callable, Dict, Iterator, Tuple

import grpc
from google.protobuf.message import DecodeError

from edge_agent.errors import AgentUnavailable, MalformedMessage
from edge_agent.runtime.detector import Detector
from edge_agent.runtime.metrics import Metrics
from edge_agent.runtime.rpc import convert, metadata, status
from edge_agent.runtime.rpc.frame_calls import FrameCalls, Respond
from edge_agent.runtime.rpc.frame_stream import FrameStream
from edge_agent.runtime.rpc.handler_threads import HandlerThreads, waited_s
from edge_agent.wire import edge_agent_pb2 as wire
from edge_agent.wire import edge_agent_v1_pb2 as wire_v1

CONTRACT_SERVICE = "AWS.LookoutVision.EdgeAgent"
INSPECTOR_SERVICE = "edge_agent.v1.Inspector"
STREAMS_AT_ONCE = 64  # each has threads of its own

Method = Callable[[bytes, Any], bytes]


class Servicer:
    """The calls of both services."""

    def __init__(self, detector: Detector, metrics: Metrics, threads: HandlerThreads) -> None:
        self._detector = detector
        self._frames = FrameCalls(detector, metrics)
        self._threads = threads
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
            self._changed.wait_for(lambda: not self._in_flight, within_s)

    def handlers(self) -> Tuple[grpc.GenericRpcHandler, ...]:
        """Return what a server registers: one generic handler a service."""
        contract: Dict[str, Any] = {
            "DetectAnomalies": self._unary(self._detecting(convert.detect_response)),
            "StartModel": self._unary(self.start_model),
            "StopModel": self._unary(self.stop_model),
            "ListModels": self._unary(self.list_models),
            "DescribeModel": self._unary(self.describe_model),
        }
        inspector: Dict[str, Any] = {
            "Inspect": self._unary(self._detecting(convert.inspect_response)),
            "StreamDetect": grpc.stream_stream_rpc_method_handler(
                self.stream_detect,
                wire_v1.StreamDetectRequest.FromString,
                wire_v1.StreamDetectResponse.SerializeToString,
            ),
        }
        return (
            grpc.method_handlers_generic_handler(CONTRACT_SERVICE, contract),
            grpc.method_handlers_generic_handler(INSPECTOR_SERVICE, inspector),
        )

    def start_model(self, content: bytes, _context: Any) -> bytes:
        """Begin to load a model."""
        request = _parse(wire.StartModelRequest, content)
        return _bytes(convert.started(self._detector.start(request.model_component)))

    def stop_model(self, content: bytes, _context: Any) -> bytes:
        """Stop a model and wait until it is freed."""
        request = _parse(wire.StopModelRequest, content)
        return _bytes(convert.stopped(self._detector.stop(request.model_component)))

    def list_models(self, content: bytes, _context: Any) -> bytes:
        """List all models."""
        _parse(wire.ListModelsRequest, content)
        return _bytes(convert.model_list(self._detector.list()))

    def describe_model(self, content: bytes, _context: Any) -> bytes:
        """Describe one model."""
        request = _parse(wire.DescribeModelRequest, content)
        return _bytes(convert.description(self._detector.describe(request.model_component)))

    def stream_detect(
        self, requests: Iterator[wire_v1.StreamDetectRequest], context: Any
    ) -> Iterator[wire_v1.StreamDetectResponse]:
        """Judge the frames of a stream, side by side and in order."""
        stream = FrameStream(self._frames, self._threads, context)
        try:
            with self._counted(), self._listed(stream):
                yield from stream.answers(requests)
        except GeneratorExit:
            raise
        except Exception as error:
            _abort(context, error)

    def _detecting(self, respond: Respond) -> Method:
        def detect(content: bytes, context: Any) -> bytes:
            request = _parse(wire.DetectAnomaliesRequest, content)
            caller = metadata.unary_caller(request, context)
            answer, beside, count = self._frames.judge(
                request, caller, waited_s(), lambda *verdict: _bytes(respond(*verdict))
            )
            context.set_trailing_metadata(beside)
            if not context.add_callback(count):  # after the answer is sent
                count()
            return bytes(answer)

        return detect

    def _unary(self, method: Method) -> Any:
        """Wrap `method`, bytes to bytes, so that every failure becomes a status."""

        def call(content: bytes, context: Any) -> Any:
            with self._counted():
                try:
                    return method(content, context)
                except Exception as error:
                    _abort(context, error)

        return grpc.unary_unary_rpc_method_handler(call)

    @contextmanager
    def _counted(self) -> Iterator[None]:
        with self._changed:
            self._in_flight += 1
        try:
            yield
        finally:
            with self._changed:
                self._in_flight -= 1
                if not self._in_flight:
                    self._changed.notify_all()

    @contextmanager
    def _listed(self, stream: FrameStream) -> Iterator[None]:
        with self._changed:
            if self._stopping or len(self._streams) >= STREAMS_AT_ONCE:
                raise AgentUnavailable(f"{len(self._streams)} streams are open; try again later.")
            self._streams[stream] = None
        try:
            yield
        finally:
            with self._changed:
                del self._streams[stream]


def _abort(context: Any, error: Exception) -> None:
    """End the call with the status of `error`; raises, as gRPC wants it."""
    if isinstance(error, CancelledError):
        context.abort(grpc.StatusCode.CANCELLED, "The caller went.")
    context.set_trailing_metadata(metadata.hints(error))
    context.abort(*status.of(error))


def _parse(request_class: Any, content: bytes) -> Any:
    try:
        return request_class.FromString(content)
    except DecodeError:
        name = request_class.DESCRIPTOR.full_name
        raise MalformedMessage(f"The request isn't a {name}.") from None


def _bytes(message: Any) -> bytes:
    content: bytes = message.SerializeToString()
    return content
