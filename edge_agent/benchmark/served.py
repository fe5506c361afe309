"""A running agent in its own process, and one camera that calls it as existing clients do."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Iterator

import grpc
import numpy as np

from edge_agent.client import Client
from edge_agent.client.segment import FrameSegment
from edge_agent.wire import edge_agent_pb2 as wire

if TYPE_CHECKING:
    from numpy.typing import NDArray

MODEL = "bench"
NO_LIMIT = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


@contextmanager
def agent(package: Path, threads: int) -> Iterator[str]:
    """Serve `package` as model `bench` on a socket of its own; yields the address."""
    with tempfile.TemporaryDirectory(prefix="edge-agent-bench-") as folder:
        models = Path(folder) / "models"
        models.mkdir()
        (models / MODEL).symlink_to(package.resolve())
        address = f"unix://{folder}/agent.sock"
        command = [sys.executable, "-m", "edge_agent", "serve", "--models", str(models)]
        command += ["--socket", address, "--set", f"engine.threads={threads}"]
        command += ["--set", "log_level=WARNING"]
        process = subprocess.Popen(command)
        try:
            with Client(address) as client:
                client.wait_ready(30.0)
                client.start(MODEL)
            yield address
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(15)


class Camera:
    """Calls DetectAnomalies with one image again and again, prepared as far as a camera's would be.

    Over shared memory the frame lies in the segment already, as a camera driver puts it there, and
    the mask is asked for in the same segment, so that every call is the same message; over bytes
    both travel in the messages.
    """

    def __init__(self, address: str, image: NDArray[np.uint8]) -> None:
        self._channel = grpc.insecure_channel(address, NO_LIMIT)
        self._detect = self._channel.unary_unary(
            "/AWS.LookoutVision.EdgeAgent/DetectAnomalies",
            request_serializer=wire.DetectAnomaliesRequest.SerializeToString,
            response_deserializer=wire.DetectAnomaliesResponse.FromString,
        )
        self._describe = self._channel.unary_unary("/AWS.LookoutVision.EdgeAgent/DescribeModel")
        self._height, self._width = image.shape[:2]
        self._pixels = image.tobytes()
        self._segment = FrameSegment(image.nbytes)
        self.frame = self._segment.frame(self._width, self._height)
        self.mask = self._segment.mask(self._width, self._height)
        np.copyto(self.frame, image)
        frame, mask = self._segment.handles(image.nbytes)
        self._request = self._detect_request(
            wire.Bitmap(width=self._width, height=self._height, shared_memory_handle=frame),
            wire.AnomalyMaskParams(shared_memory_handle=mask),
        )

    def __enter__(self) -> Camera:
        return self

    def __exit__(self, *_: Any) -> None:
        self._channel.close()
        self._segment.close()

    def by_shared_memory(self) -> wire.DetectAnomaliesResponse:
        """One call; frame and mask by name."""
        return self._call(self._request)

    def by_bytes(self) -> wire.DetectAnomaliesResponse:
        """One call; frame and mask in the messages."""
        bitmap = wire.Bitmap(width=self._width, height=self._height, byte_data=self._pixels)
        return self._call(self._detect_request(bitmap, None))

    def empty_call(self) -> bytes:
        """One call that carries and computes nothing: DescribeModel."""
        request = wire.DescribeModelRequest(model_component=MODEL).SerializeToString()
        reply: bytes = self._describe(request, timeout=30.0)
        return reply

    def _call(self, request: wire.DetectAnomaliesRequest) -> wire.DetectAnomaliesResponse:
        reply: wire.DetectAnomaliesResponse = self._detect(request, timeout=30.0)
        return reply

    def _detect_request(self, bitmap: wire.Bitmap, mask: Any) -> wire.DetectAnomaliesRequest:
        return wire.DetectAnomaliesRequest(
            model_component=MODEL, bitmap=bitmap, anomaly_mask_params=mask
        )
