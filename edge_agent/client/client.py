"""A connection to a running agent: judge frames, list and control models."""

from __future__ import annotations

import time
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Iterable, Iterator, List, Optional, Type, TypeVar

import grpc
import numpy as np
from google.protobuf.message import Message

from edge_agent import errors, protocol
from edge_agent.client import convert
from edge_agent.client.connection import AgentConnection, own_replies
from edge_agent.client.fork_gate import GATE
from edge_agent.client.segment import FrameSegment, check_image
from edge_agent.client.stream import StreamAnswer, StreamedFrames
from edge_agent.types import ModelInfo, ModelState, Prediction, Priority
from edge_agent.wire import edge_agent_pb2 as wire
from edge_agent.wire import edge_agent_v1_pb2 as wire_v1

if TYPE_CHECKING:
    from numpy.typing import NDArray

M = TypeVar("M", bound=Message)

POLL_EVERY_S = 0.05


class Client:
    """Talks to the agent at `address`; use one client per thread, as a context manager.

    address: "unix:///path" or "host:port". timeout_s: of each call, in seconds. credentials: of
    gRPC, for an agent with TLS; None: plaintext. camera_id: frames of one camera take turns with
    those of others; at most 128 printable ASCII characters. priority: RESCORING frames are judged
    when no INSPECTION frame waits. lane: the name of `priority` up to version 1.3.

    Every method raises the error of `edge_agent.errors` that the agent raised, AgentUnavailable
    when no agent answers, DeadlineExceeded after `timeout_s`, InvalidRequest after `close`.
    """

    def __init__(
        self,
        address: str = protocol.DEFAULT_SOCKET,
        timeout_s: float = 30.0,
        credentials: Optional[grpc.ChannelCredentials] = None,
        camera_id: str = "",
        priority: Priority = Priority.INSPECTION,
        *,
        lane: Optional[Priority] = None,
    ) -> None:
        self._connection = AgentConnection(address, credentials)
        self._timeout_s = timeout_s
        camera = [(protocol.CAMERA_ID, camera_id)] if camera_id else []
        self._metadata = (*camera, (protocol.PRIORITY, (lane or priority).value))
        self._segment: Optional[FrameSegment] = None

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection and remove the shared memory."""
        self._connection.close()
        self._drop_segment()

    def detect(
        self, model: str, image: NDArray[np.uint8], transport: str = "shared_memory"
    ) -> Prediction:
        """Judge `image`, uint8 RGB of shape (height, width, 3), with a RUNNING model.

        Width and height are 64 to 4096 pixels. transport: "shared_memory" (for an agent on this
        device) or "bytes". The prediction's mask is uint8 RGB of the image's shape, None for
        classification models; score, threshold and confidence are 0 to 1.

        Raises InvalidFrame, InvalidRequest, ModelNotFound, WrongModelState (the model isn't
        RUNNING), Overloaded (try again after its `retry_after_s`), CallsTakeTooMuch,
        OutOfMemory, OutOfDescriptors, InferenceFailed.
        """
        check_image(image)
        if transport == "bytes":
            bitmap = wire.Bitmap(
                width=image.shape[1], height=image.shape[0], byte_data=image.tobytes()
            )
            return convert.prediction(self._inspect(model, bitmap, None), None)
        if transport != "shared_memory":
            raise errors.InvalidRequest(f"transport is {transport!r}; use shared_memory or bytes.")
        try:
            return self._detect_shared(model, image)
        except errors.SegmentGone:  # a session manager removes what belongs to a user that left
            self._drop_segment()
            return self._detect_shared(model, image)

    def stream(
        self,
        model: str,
        images: Iterable[NDArray[np.uint8]],
        max_in_flight: int = 4,
        newest_frame_wins: bool = False,
    ) -> Iterator[StreamAnswer]:
        """Judge `images` (each as for `detect`) on one call, `max_in_flight` (1 to 64) in parallel.

        Yields one answer for each image, in their order, as soon as it is there; an image that
        fails has the error in its answer, and the stream goes on. With `newest_frame_wins` an
        image that a newer one overtakes while it waits is skipped. Has no time limit.

        Raises InvalidFrame for an image of another kind, and errors of the call as a whole.
        """
        options = wire_v1.StreamOptions(
            max_in_flight=max_in_flight, newest_frame_wins=newest_frame_wins
        )
        method = self._connection.channel.stream_stream(
            protocol.STREAM_DETECT,
            request_serializer=wire_v1.StreamDetectRequest.SerializeToString,
            response_deserializer=wire_v1.StreamDetectResponse.FromString,
        )
        again = partial(self.detect, model)
        with StreamedFrames(model, options, self._connection.address, again) as frames:
            start = partial(method, frames.requests(images), metadata=self._metadata)
            try:
                for reply in own_replies(start):
                    yield frames.answer(reply)
            except grpc.RpcError as error:
                raise self._failed(error) from None

    def models(self) -> List[ModelInfo]:
        """Return every deployed model, by name."""
        return [convert.model_info(entry) for entry in self._list(self._timeout_s).models]

    def describe(self, name: str) -> ModelInfo:
        """Return one model's state. Raises ModelNotFound."""
        request = wire.DescribeModelRequest(model_component=name)
        reply = self._call(protocol.DESCRIBE_MODEL, request, wire.DescribeModelResponse)
        return convert.model_info(reply.model_description)

    def start(self, name: str, wait_s: float = 60.0) -> ModelInfo:
        """Start a model and wait up to `wait_s` seconds until it is RUNNING.

        Returns at once, perhaps still STARTING, when `wait_s` is 0. Raises ModelError with the
        agent's reason when it FAILED, ModelNotFound, WrongModelState when it is started already,
        NotAllowed, OutOfMemory, DeadlineExceeded when it takes longer.
        """
        request = wire.StartModelRequest(model_component=name)
        self._call(protocol.START_MODEL, request, wire.StartModelResponse)
        end = time.monotonic() + wait_s
        while True:
            info = self.describe(name)
            if info.state is ModelState.RUNNING or wait_s <= 0:
                return info
            if info.state is not ModelState.STARTING:
                raise errors.ModelError(f"Model {name!r} is {info.state.name}. {info.message}")
            if time.monotonic() > end:
                raise errors.DeadlineExceeded(f"Model {name!r} isn't RUNNING after {wait_s:g} s.")
            time.sleep(POLL_EVERY_S)

    def stop(self, name: str) -> None:
        """Stop a RUNNING model and return when it is freed.

        Raises ModelNotFound, WrongModelState when it isn't RUNNING, NotAllowed.
        """
        request = wire.StopModelRequest(model_component=name)
        self._call(protocol.STOP_MODEL, request, wire.StopModelResponse)

    def wait_ready(self, within_s: float) -> None:
        """Wait up to `within_s` seconds until the agent answers. Raises AgentUnavailable."""
        end = time.monotonic() + within_s
        while not self._is_ready(end):
            time.sleep(POLL_EVERY_S)

    def _is_ready(self, end: float) -> bool:
        try:
            self._list(max(0.0, end - time.monotonic()))
        except errors.AgentUnavailable:
            if time.monotonic() + POLL_EVERY_S > end:
                raise
            return False
        except errors.DeadlineExceeded:
            self._connection.connect()
            raise errors.AgentUnavailable(self._connection.why_unreachable()) from None
        return True

    def _list(self, timeout_s: float) -> wire.ListModelsResponse:
        request = wire.ListModelsRequest()
        return self._call(protocol.LIST_MODELS, request, wire.ListModelsResponse, timeout_s)

    def _detect_shared(self, model: str, image: NDArray[np.uint8]) -> Prediction:
        self._connection.check_open()  # before there is a segment
        segment = self._segment_for(image.nbytes)
        np.copyto(segment.frame(image.shape[1], image.shape[0]), image)
        frame, mask = segment.handles(image.nbytes)
        bitmap = wire.Bitmap(
            width=image.shape[1], height=image.shape[0], shared_memory_handle=frame
        )
        reply = self._inspect(model, bitmap, wire.AnomalyMaskParams(shared_memory_handle=mask))
        return convert.prediction(reply, segment)

    def _inspect(
        self, model: str, bitmap: wire.Bitmap, mask: Optional[wire.AnomalyMaskParams]
    ) -> wire_v1.InspectResponse:
        request = wire.DetectAnomaliesRequest(
            model_component=model, bitmap=bitmap, anomaly_mask_params=mask
        )
        return self._call(protocol.INSPECT, request, wire_v1.InspectResponse)

    def _call(
        self, path: str, request: Message, reply_class: Type[M], timeout_s: Optional[float] = None
    ) -> M:
        call = self._connection.channel.unary_unary(
            path,
            request_serializer=type(request).SerializeToString,
            response_deserializer=reply_class.FromString,
        )
        limit_s = self._timeout_s if timeout_s is None else timeout_s
        try:
            with GATE.call():
                reply: M = call(request, timeout=limit_s, metadata=self._metadata)
        except grpc.RpcError as error:
            raise self._failed(error) from None
        self._connection.has_answered = True
        return reply

    def _failed(self, error: grpc.RpcError) -> errors.EdgeAgentError:
        """Return our error; the next call connects at once when no agent answered.

        gRPC by itself waits longer from try to try, and grpcio 1.70 may never get through again.
        """
        found = self._connection.failure(error, self._timeout_s)
        if isinstance(found, errors.AgentUnavailable):
            self._connection.connect()
        return found

    def _segment_for(self, frame_bytes: int) -> FrameSegment:
        if self._segment is None or not self._segment.fits(frame_bytes):
            self._drop_segment()
            self._segment = FrameSegment(frame_bytes, self._connection.address)
        return self._segment

    def _drop_segment(self) -> None:
        if self._segment is not None:
            self._segment.close()
            self._segment = None
