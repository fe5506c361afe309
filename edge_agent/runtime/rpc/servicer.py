"""One short method a call: convert, ask the detector, convert."""

from __future__ import annotations

import threading
import time
from concurrent.futures import CancelledError
from typing import Any, Callable, Dict, Tuple

import grpc
from google.protobuf.message import DecodeError

from edge_agent.errors import MalformedMessage
from edge_agent.runtime.detector import Detector
from edge_agent.runtime.rpc import convert, status
from edge_agent.types import Caller, DetectRequest, Prediction
from edge_agent.wire import edge_agent_pb2 as wire
from edge_agent.wire import edge_agent_v1_pb2 as wire_v1

CONTRACT_SERVICE = "AWS.LookoutVision.EdgeAgent"
INSPECTOR_SERVICE = "edge_agent.v1.Inspector"

Method = Callable[[Any, Any], Any]


class Servicer:
    """The calls of both services."""

    def __init__(self, detector: Detector) -> None:
        self._detector = detector
        self._in_flight = 0
        self._changed = threading.Condition()

    def wait_idle(self, within_s: float) -> None:
        """Return when no call is in flight, or `within_s` are over."""
        with self._changed:
            self._changed.wait_for(lambda: not self._in_flight, within_s)

    def handlers(self) -> Tuple[grpc.GenericRpcHandler, ...]:
        """Return what a server registers: one generic handler a service."""
        detect = wire.DetectAnomaliesRequest
        contract: Dict[str, Any] = {
            "DetectAnomalies": self._unary(self.detect_anomalies, detect),
            "StartModel": self._unary(self.start_model, wire.StartModelRequest),
            "StopModel": self._unary(self.stop_model, wire.StopModelRequest),
            "ListModels": self._unary(self.list_models, wire.ListModelsRequest),
            "DescribeModel": self._unary(self.describe_model, wire.DescribeModelRequest),
        }
        inspector: Dict[str, Any] = {"Inspect": self._unary(self.inspect, detect)}
        return (
            grpc.method_handlers_generic_handler(CONTRACT_SERVICE, contract),
            grpc.method_handlers_generic_handler(INSPECTOR_SERVICE, inspector),
        )

    def detect_anomalies(
        self, request: wire.DetectAnomaliesRequest, context: Any
    ) -> wire.DetectAnomaliesResponse:
        """Judge a frame, as the contract has it."""
        call, prediction = self._detect(request, context)
        return convert.detect_response(prediction, call.mask)

    def inspect(
        self, request: wire.DetectAnomaliesRequest, context: Any
    ) -> wire_v1.InspectResponse:
        """Judge a frame and tell more."""
        call, prediction = self._detect(request, context)
        return convert.inspect_response(prediction, call.mask)

    def start_model(
        self, request: wire.StartModelRequest, _context: Any
    ) -> wire.StartModelResponse:
        """Begin to load a model."""
        return convert.started(self._detector.start(request.model_component))

    def stop_model(self, request: wire.StopModelRequest, _context: Any) -> wire.StopModelResponse:
        """Stop a model and wait until it is freed."""
        return convert.stopped(self._detector.stop(request.model_component))

    def list_models(self, _request: Any, _context: Any) -> wire.ListModelsResponse:
        """List all models."""
        return convert.model_list(self._detector.list())

    def describe_model(
        self, request: wire.DescribeModelRequest, _context: Any
    ) -> wire.DescribeModelResponse:
        """Describe one model."""
        return convert.description(self._detector.describe(request.model_component))

    def _detect(
        self, request: wire.DetectAnomaliesRequest, context: Any
    ) -> Tuple[DetectRequest, Prediction]:
        deadline = time.monotonic() + context.time_remaining()  # infinite when the caller has none
        call = convert.detect_request(request, Caller(deadline, context.add_callback))
        return call, self._detector.detect(call)

    def _unary(self, method: Method, request_class: Any) -> Any:
        """Wrap `method` so that every failure becomes a status, undecodable requests included."""

        def call(content: bytes, context: Any) -> Any:
            self._count(1)
            try:
                return method(_parse(request_class, content), context).SerializeToString()
            except CancelledError:
                context.abort(grpc.StatusCode.CANCELLED, "The caller went.")
            except Exception as error:
                context.abort(*status.of(error))
            finally:
                self._count(-1)

        return grpc.unary_unary_rpc_method_handler(call)  # bytes in, bytes out

    def _count(self, change: int) -> None:
        with self._changed:
            self._in_flight += change
            if not self._in_flight:
                self._changed.notify_all()


def _parse(request_class: Any, content: bytes) -> Any:
    try:
        return request_class.FromString(content)
    except DecodeError:
        name = request_class.DESCRIPTOR.full_name
        raise MalformedMessage(f"The request isn't a {name}.") from None
