"""A connection to a running agent: judge frames, list and control models."""

from __future__ import annotations

import time
from types import TracebackType
from typing import TYPE_CHECKING, Any, Iterable, Iterator, List, Optional, Type

import grpc
import numpy as np

from edge_agent import errors
from edge_agent.client import convert
from edge_agent.client.segment import FrameSegment, check_image
from edge_agent.client.stream import StreamAnswer, StreamedFrames
from edge_agent.protocol import DEFAULT_SOCKET
from edge_agent.types import Lane, ModelInfo, ModelState, Prediction
from edge_agent.wire import edge_agent_pb2 as wire
from edge_agent.wire import edge_agent_v1_pb2 as wire_v1

if TYPE_CHECKING:
    from numpy.typing import NDArray

MESSAGE_LIMIT_BYTES = 64 * 1024 * 1024  # a 4096x4096 mask has 48 MiB; gRPC's default is 4 MiB
POLL_EVERY_S = 0.05


class Client:
    """Talks to the agent at `address`; use one client per thread, as a context manager.

    Frames of one `camera_id` take turns with those of others; those of the lane RESCORING are
    judged when no frame of INSPECTION waits.
    Every method raises the errors of `edge_agent.errors` by name, AgentUnavailable when nobody
    answers, DeadlineExceeded after `timeout_s` seconds.
    """

    def __init__(
        self,
        address: str = DEFAULT_SOCKET,
        timeout_s: float = 30.0,
        credentials: Optional[grpc.ChannelCredentials] = None,
        camera_id: str = "",
        lane: Lane = Lane.INSPECTION,
    ) -> None:
        self._address, self._credentials = address, credentials
        self._channel = self._connect()
        self._timeout_s = timeout_s
        camera = [("camera-id", camera_id)] if camera_id else []
        self._metadata = (*camera, ("lane", lane.value))
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
        """Hang up and remove the shared memory."""
        self._channel.close()
        if self._segment is not None:
            self._segment.close()
            self._segment = None

    def detect(
        self, model: str, image: NDArray[np.uint8], transport: str = "shared_memory"
    ) -> Prediction:
        """Judge `image`, uint8 RGB of shape (height, width, 3), with a RUNNING model.

        transport: "shared_memory" (the agent on this device) or "bytes". The prediction's mask is
        uint8 RGB of the image's shape, None for classification models.
        """
        check_image(image)
        if transport == "bytes":
            bitmap = wire.Bitmap(
                width=image.shape[1], height=image.shape[0], byte_data=image.tobytes()
            )
            return convert.prediction(self._inspect(model, bitmap, None), None)
        if transport != "shared_memory":
            raise errors.InvalidRequest(f"transport is {transport!r}; use shared_memory or bytes.")
        segment = self._segment_for(image.nbytes)
        np.copyto(segment.frame(image.shape[1], image.shape[0]), image)
        frame, mask = segment.handles(image.nbytes)
        bitmap = wire.Bitmap(
            width=image.shape[1], height=image.shape[0], shared_memory_handle=frame
        )
        reply = self._inspect(model, bitmap, wire.AnomalyMaskParams(shared_memory_handle=mask))
        return convert.prediction(reply, segment)

    def stream(
        self,
        model: str,
        images: Iterable[NDArray[np.uint8]],
        max_in_flight: int = 4,
        newest_frame_wins: bool = False,
    ) -> Iterator[StreamAnswer]:
        """Judge `images` (each as for `detect`) on one call, `max_in_flight` side by side.

        Yields an answer an image, in their order, as soon as it is there. With `newest_frame_wins`
        an image that a newer one overtakes while it waits is skipped.
        """
        options = wire_v1.StreamOptions(
            max_in_flight=max_in_flight, newest_frame_wins=newest_frame_wins
        )
        method = self._channel.stream_stream(
            "/edge_agent.v1.Inspector/StreamDetect",
            request_serializer=wire_v1.StreamDetectRequest.SerializeToString,
            response_deserializer=wire_v1.StreamDetectResponse.FromString,
        )
        with StreamedFrames(model, options, self._address) as frames:
            call = method(frames.requests(images), metadata=self._metadata)
            try:
                for reply in call:
                    yield frames.answer(reply)
            except grpc.RpcError as error:
                raise self._failed(error) from None
            finally:
                call.cancel()

    def models(self) -> List[ModelInfo]:
        """Return every deployed model, by name."""
        reply = self._call("ListModels", wire.ListModelsRequest(), wire.ListModelsResponse)
        return [convert.model_info(entry) for entry in reply.models]

    def describe(self, name: str) -> ModelInfo:
        """Return one model's state."""
        request = wire.DescribeModelRequest(model_component=name)
        reply = self._call("DescribeModel", request, wire.DescribeModelResponse)
        return convert.model_info(reply.model_description)

    def start(self, name: str, wait_s: float = 60.0) -> ModelInfo:
        """Start a model and wait up to `wait_s` seconds until it is RUNNING.

        Raises ModelError with the agent's reason when it FAILED, WrongModelState when it runs
        already, DeadlineExceeded when it takes longer.
        """
        request = wire.StartModelRequest(model_component=name)
        self._call("StartModel", request, wire.StartModelResponse)
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
        """Stop a RUNNING model and return when it is freed."""
        request = wire.StopModelRequest(model_component=name)
        self._call("StopModel", request, wire.StopModelResponse)

    def wait_ready(self, within_s: float) -> None:
        """Wait until the agent answers. Raises AgentUnavailable."""
        try:
            grpc.channel_ready_future(self._channel).result(timeout=within_s)
        except grpc.FutureTimeoutError:
            raise errors.AgentUnavailable(
                f"No agent answers at {self._address} within {within_s:g} s."
            ) from None

    def _inspect(
        self, model: str, bitmap: wire.Bitmap, mask: Optional[wire.AnomalyMaskParams]
    ) -> wire_v1.InspectResponse:
        request = wire.DetectAnomaliesRequest(
            model_component=model, bitmap=bitmap, anomaly_mask_params=mask
        )
        reply: wire_v1.InspectResponse = self._invoke(
            "/edge_agent.v1.Inspector/Inspect", request, wire_v1.InspectResponse
        )
        return reply

    def _call(self, method: str, request: Any, reply_class: Any) -> Any:
        return self._invoke(f"/AWS.LookoutVision.EdgeAgent/{method}", request, reply_class)

    def _invoke(self, path: str, request: Any, reply_class: Any) -> Any:
        call = self._channel.unary_unary(
            path,
            request_serializer=type(request).SerializeToString,
            response_deserializer=reply_class.FromString,
        )
        try:
            return call(request, timeout=self._timeout_s, metadata=self._metadata)
        except grpc.RpcError as error:
            raise self._failed(error) from None

    def _connect(self) -> grpc.Channel:
        options = [
            ("grpc.max_receive_message_length", MESSAGE_LIMIT_BYTES),
            ("grpc.max_send_message_length", MESSAGE_LIMIT_BYTES),
            ("grpc.use_local_subchannel_pool", 1),  # else a new channel gets the old connection
        ]
        if self._credentials is None:
            return grpc.insecure_channel(self._address, options)
        return grpc.secure_channel(self._address, self._credentials, options)

    def _failed(self, error: grpc.RpcError) -> errors.EdgeAgentError:
        """Return our error; the next call tries to connect at once when nobody answered.

        gRPC by itself waits longer from try to try, and grpcio 1.70 may never get through again.
        """
        found = convert.error(error)
        if isinstance(found, errors.AgentUnavailable):
            self._channel = self._connect()
        return found

    def _segment_for(self, frame_bytes: int) -> FrameSegment:
        if self._segment is None or not self._segment.fits(frame_bytes):
            if self._segment is not None:
                self._segment.close()
            self._segment = FrameSegment(frame_bytes, self._address)
        return self._segment
