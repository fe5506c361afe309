"""One short method a call: convert, ask the detector, convert."""

from __future__ import annotations

import asyncio
import time
from contextlib import contextmanager
from typing import Any, Awaitable, Callable, Dict, Iterator, Optional, Tuple

import grpc
from google.protobuf.message import DecodeError

from edge_agent.errors import MalformedMessage
from edge_agent.runtime.detector import Detector
from edge_agent.runtime.rpc import convert, status
from edge_agent.types import DetectRequest, Prediction
from edge_agent.wire import edge_agent_pb2 as wire
from edge_agent.wire import edge_agent_v1_pb2 as wire_v1

CONTRACT_SERVICE = "AWS.LookoutVision.EdgeAgent"
INSPECTOR_SERVICE = "edge_agent.v1.Inspector"

Method = Callable[[Any, Any], Awaitable[Any]]


class Servicer:
    """The calls of both services."""

    def __init__(self, detector: Detector) -> None:
        self._detector = detector
        self._in_flight = 0
        self._idle = asyncio.Event()
        self._idle.set()

    async def idle(self) -> None:
        """Return when no call is in flight."""
        await self._idle.wait()

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

    async def detect_anomalies(
        self, request: wire.DetectAnomaliesRequest, context: Any
    ) -> wire.DetectAnomaliesResponse:
        """Judge a frame, as the contract has it."""
        call, prediction = await self._detect(request, context)
        return convert.detect_response(prediction, call.mask)

    async def inspect(
        self, request: wire.DetectAnomaliesRequest, context: Any
    ) -> wire_v1.InspectResponse:
        """Judge a frame and tell more."""
        call, prediction = await self._detect(request, context)
        return convert.inspect_response(prediction, call.mask)

    async def start_model(
        self, request: wire.StartModelRequest, _context: Any
    ) -> wire.StartModelResponse:
        """Begin to load a model."""
        return convert.started(self._detector.start(request.model_component))

    async def stop_model(
        self, request: wire.StopModelRequest, _context: Any
    ) -> wire.StopModelResponse:
        """Stop a model and wait until it is freed."""
        return convert.stopped(await self._detector.stop(request.model_component))

    async def list_models(self, _request: Any, _context: Any) -> wire.ListModelsResponse:
        """List all models."""
        return convert.model_list(self._detector.list())

    async def describe_model(
        self, request: wire.DescribeModelRequest, _context: Any
    ) -> wire.DescribeModelResponse:
        """Describe one model."""
        return convert.description(self._detector.describe(request.model_component))

    async def _detect(
        self, request: wire.DetectAnomaliesRequest, context: Any
    ) -> Tuple[DetectRequest, Prediction]:
        remaining_s: Optional[float] = context.time_remaining()
        deadline = None if remaining_s is None else time.monotonic() + remaining_s
        call = convert.detect_request(request, deadline)
        return call, await self._detector.detect(call)

    def _unary(self, method: Method, request_class: Any) -> Any:
        """Wrap `method` so that every failure becomes a status, undecodable requests included."""

        def parse(content: bytes) -> Any:
            try:
                return request_class.FromString(content)
            except DecodeError:
                return None

        async def call(request: Any, context: Any) -> Any:
            with self._counted():
                if request is None:
                    name = request_class.DESCRIPTOR.full_name
                    error = MalformedMessage(f"The request isn't a {name}.")
                    await context.abort(*status.of(error))
                try:
                    return await method(request, context)
                except asyncio.CancelledError:
                    raise
                except Exception as error:
                    await context.abort(*status.of(error))

        return grpc.unary_unary_rpc_method_handler(
            call, request_deserializer=parse, response_serializer=_serialize
        )

    @contextmanager
    def _counted(self) -> Iterator[None]:
        self._in_flight += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._in_flight -= 1
            if not self._in_flight:
                self._idle.set()


def _serialize(message: Any) -> bytes:
    content: bytes = message.SerializeToString()
    return content
