"""A running agent in its own process, and one camera that calls it as existing clients do."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Iterator

import grpc
import numpy as np

from edge_agent import protocol
from edge_agent.benchmark.loops import OK, Answer
from edge_agent.client import Client
from edge_agent.client.segment import FrameSegment
from edge_agent.errors import AgentUnavailable, WrongModelState
from edge_agent.types import ModelState
from edge_agent.wire import edge_agent_pb2 as wire

if TYPE_CHECKING:
    from subprocess import Popen

    from numpy.typing import NDArray

MODEL = "benchmark"
CALL_LIMIT_S = 10.0
READY_WITHIN_S = 30
GONE_WITHIN_S = 15.0
OPTIONS = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.use_local_subchannel_pool", 1),  # a connection of its own for each camera
]


@contextmanager
def agent(package: Path, units: int, threads: int, *settings: str) -> Iterator[str]:
    """Serve `package` as model `MODEL` on a socket of its own; yields the address.

    settings: further ones, NAME=VALUE.
    """
    with tempfile.TemporaryDirectory(prefix="edge-agent-benchmark-") as folder:
        models = Path(folder) / "models"
        models.mkdir()
        suffix = ".zip" if package.is_file() else ""
        (models / (MODEL + suffix)).symlink_to(package.resolve())
        address = f"unix://{folder}/agent.sock"
        command = [sys.executable, "-m", "edge_agent", "serve", "--models", str(models)]
        command += ["--socket", address, "--set", f"engine.threads={threads}"]
        command += ["--set", f"engine.min_inference_units={units}"]
        command += ["--set", f"engine.max_inference_units={units}", "--set", "log_level=WARNING"]
        for setting in settings:
            command += ["--set", setting]
        # a session of its own: Ctrl-C reaches only the benchmark, which then stops the agent
        process = subprocess.Popen(command, start_new_session=True)
        try:
            _start(process, address)
            yield address
        finally:
            _stop(process)


def check_running(address: str, model: str) -> None:
    """Raise AgentUnavailable, ModelNotFound or WrongModelState unless `model` answers frames."""
    with Client(address, CALL_LIMIT_S) as client:
        client.wait_ready(CALL_LIMIT_S / 2)
        info = client.describe(model)
    if info.state is not ModelState.RUNNING:
        raise WrongModelState(
            f"Model {model!r} is {info.state.name}; start it first: "
            f"edge-agent models start {model} --address {address}"
        )


def _start(process: Popen[bytes], address: str) -> None:
    with Client(address) as client:
        for _ in range(READY_WITHIN_S):
            if process.poll() is not None:
                break
            try:
                client.wait_ready(1.0)
            except AgentUnavailable:
                continue
            client.start(MODEL)
            return
    raise AgentUnavailable("The agent to measure did not come up; its log is above.")


def _stop(process: Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(GONE_WITHIN_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class Camera:
    """Calls DetectAnomalies with one image again and again, prepared as far as a camera's would be.

    Over shared memory the frame lies in the segment already, as a camera driver puts it there, and
    the mask is asked for in the same segment, so that every call is the same message; over bytes
    both travel in the messages. Calls may overlap: the frame is only read, and nobody looks at the
    mask.
    """

    def __init__(self, address: str, model: str, image: NDArray[np.uint8]) -> None:
        self._model = model
        self._channel = grpc.insecure_channel(address, OPTIONS)
        self._detect = self._channel.unary_unary(
            protocol.DETECT_ANOMALIES,
            request_serializer=wire.DetectAnomaliesRequest.SerializeToString,
            response_deserializer=wire.DetectAnomaliesResponse.FromString,
        )
        self._describe = self._channel.unary_unary(protocol.DESCRIBE_MODEL)
        self._height, self._width = image.shape[:2]
        self._pixels = image.tobytes()
        self._segment = FrameSegment(image.nbytes, address)
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

    def by_shared_memory(self) -> Answer:
        """One call; frame and mask by name."""
        return self._call(self._request)

    def by_bytes(self) -> Answer:
        """One call; frame and mask in the messages."""
        bitmap = wire.Bitmap(width=self._width, height=self._height, byte_data=self._pixels)
        return self._call(self._detect_request(bitmap, None))

    def send(self) -> Any:
        """Send the frame over shared memory and return the call, a future."""
        return self._detect.future(self._request, timeout=CALL_LIMIT_S)

    def empty_call(self) -> bytes:
        """One call that carries and computes nothing: DescribeModel."""
        request = wire.DescribeModelRequest(model_component=self._model).SerializeToString()
        reply: bytes = self._describe(request, timeout=CALL_LIMIT_S)
        return reply

    def _call(self, request: wire.DetectAnomaliesRequest) -> Answer:
        try:
            _, call = self._detect.with_call(request, timeout=CALL_LIMIT_S)
        except grpc.RpcError as error:
            return Answer(error.code().name)
        metadata = dict(call.trailing_metadata() or ())
        return Answer(OK, metadata.get(protocol.SERVER_TIMING, ""))

    def _detect_request(self, bitmap: wire.Bitmap, mask: Any) -> wire.DetectAnomaliesRequest:
        return wire.DetectAnomaliesRequest(
            model_component=self._model, bitmap=bitmap, anomaly_mask_params=mask
        )
