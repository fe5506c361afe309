"""Frames on their way through one StreamDetect call, each in shared memory of its own."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Callable, Dict, Iterable, Iterator, List, Optional, Type

import grpc
import numpy as np

from edge_agent import protocol
from edge_agent.client import convert
from edge_agent.client.segment import FrameSegment, check_image
from edge_agent.errors import EdgeAgentError, Overloaded, SegmentGone
from edge_agent.types import Prediction
from edge_agent.wire import edge_agent_pb2 as wire
from edge_agent.wire import edge_agent_v1_pb2 as wire_v1

if TYPE_CHECKING:
    from numpy.typing import NDArray

AHEAD = 4  # frames sent beyond those in work
AGAIN_WITHIN_S, PAUSE_S = 5.0, 0.01  # until a frame whose segment was removed has its place
_CODES = {code.value[0]: code for code in grpc.StatusCode}


@dataclass(frozen=True)
class StreamAnswer:
    """The answer for image number `frame_id`, counted from 0.

    It has a prediction, or an error of its own, or neither when a newer image overtook it.
    """

    frame_id: int
    prediction: Optional[Prediction] = None
    error: Optional[EdgeAgentError] = None


class StreamedFrames:
    """Owns the segments of the frames in flight; one is used again when its answer is read."""

    def __init__(
        self,
        model: str,
        options: wire_v1.StreamOptions,
        address: str,
        again: Callable[[NDArray[np.uint8]], Prediction],
    ) -> None:
        """`again` judges the frame of a segment that was removed meanwhile."""
        self._model, self._options, self._address, self._again = model, options, address, again
        self._free: List[FrameSegment] = []
        self._used: Dict[int, FrameSegment] = {}
        self._frames: Dict[int, NDArray[np.uint8]] = {}  # in those segments
        self._room = threading.Semaphore(
            (options.max_in_flight or protocol.FRAMES_IN_FLIGHT) + AHEAD
        )
        self._ended, self._lock = False, threading.Lock()
        self._owner = os.getpid()

    def __enter__(self) -> StreamedFrames:
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        if self._owner != os.getpid():  # a forked child: all of it is the parent's
            return
        with self._lock:  # gRPC's thread may be making a segment
            self._ended = True
            for segment in [*self._free, *self._used.values()]:
                segment.close()
        self._room.release()

    def requests(
        self, images: Iterable[NDArray[np.uint8]]
    ) -> Iterator[wire_v1.StreamDetectRequest]:
        """Yield a message an image, waiting while too many are without an answer."""
        for frame_id, image in enumerate(images):
            check_image(image)
            self._room.acquire()
            with self._lock:
                if self._ended:
                    return
                request = self._request(frame_id, image)
            yield request

    def answer(self, reply: wire_v1.StreamDetectResponse) -> StreamAnswer:
        """Read an answer and make its segment free for another frame."""
        segment, frame = self._used.pop(reply.frame_id), self._frames.pop(reply.frame_id)
        try:
            if reply.failure.error_name == SegmentGone.__name__:
                return self._judged_again(reply.frame_id, frame)
            if reply.HasField("result"):
                prediction = convert.prediction(reply.result, segment)
                return StreamAnswer(reply.frame_id, prediction)
            if reply.HasField("failure"):
                failed = reply.failure
                error = convert.failure(_CODES[failed.code], failed.message, failed.error_name)
                return StreamAnswer(reply.frame_id, error=error)
            return StreamAnswer(reply.frame_id)
        finally:
            self._free.append(segment)
            self._room.release()

    def _judged_again(self, frame_id: int, frame: NDArray[np.uint8]) -> StreamAnswer:
        """Judge a frame by a call of its own, beside those of the stream."""
        end = time.monotonic() + AGAIN_WITHIN_S
        while True:
            try:
                return StreamAnswer(frame_id, self._again(frame))
            except Overloaded as error:
                if time.monotonic() > end:
                    return StreamAnswer(frame_id, error=error)
                time.sleep(error.retry_after_s or PAUSE_S)
            except EdgeAgentError as error:
                return StreamAnswer(frame_id, error=error)

    def _request(self, frame_id: int, image: NDArray[np.uint8]) -> wire_v1.StreamDetectRequest:
        segment = self._segment(image.nbytes)
        self._used[frame_id] = segment
        height, width = image.shape[:2]
        self._frames[frame_id] = segment.frame(width, height)
        np.copyto(self._frames[frame_id], image)
        frame, mask = segment.handles(image.nbytes)
        return wire_v1.StreamDetectRequest(
            options=self._options,
            frame_id=frame_id,
            request=wire.DetectAnomaliesRequest(
                model_component=self._model,
                bitmap=wire.Bitmap(width=width, height=height, shared_memory_handle=frame),
                anomaly_mask_params=wire.AnomalyMaskParams(shared_memory_handle=mask),
            ),
        )

    def _segment(self, frame_bytes: int) -> FrameSegment:
        while self._free:
            segment = self._free.pop()
            if segment.fits(frame_bytes):
                return segment
            segment.close()
        return FrameSegment(frame_bytes, self._address)
