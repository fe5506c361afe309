"""What the tests of the contract share: frames, segments, and calls made by short names."""

from __future__ import annotations

import mmap
import os
import time
import uuid
from pathlib import Path
from types import TracebackType
from typing import Any, Callable, Optional, Tuple, Type

import grpc
import numpy as np
import pytest

from tests.contract import generations
from tests.contract.generations import Stub

FOLDER = Path("/dev/shm")
TIMEOUT_S = 90.0

OK = grpc.StatusCode.OK
INVALID_ARGUMENT = grpc.StatusCode.INVALID_ARGUMENT
NOT_FOUND = grpc.StatusCode.NOT_FOUND
FAILED_PRECONDITION = grpc.StatusCode.FAILED_PRECONDITION
RESOURCE_EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED


def plain(red: int, width: int = 64, height: int = 64, blue: int = 0) -> Any:
    """A frame of one colour; micro models score it red / 255."""
    frame = np.zeros((height, width, 3), np.uint8)
    frame[...] = (red, 40, blue)
    return frame


def striped(red: int, width: int = 64, height: int = 64) -> Any:
    """A frame scored like `plain`, with structure as pictures of a camera have it."""
    frame = plain(red, width, height)
    frame[::4, :, 1] = 200
    return frame


def defective(width: int = 64, height: int = 64) -> Any:
    """A frame with a scratch (red) in its upper left quarter, a dent (blue) in the lower right."""
    frame = plain(51, width, height, blue=51)
    frame[: height // 2, : width // 2] = (255, 40, 0)
    frame[height * 3 // 4 :, width * 3 // 4 :] = (0, 40, 255)
    return frame


class Segment:
    """A client's own POSIX shared memory object, under a name nobody else has."""

    def __init__(self, size: int, name: str = "", mode: int = 0o666) -> None:
        self.name = name or f"edge-agent-test-{uuid.uuid4().hex}"
        self.path = FOLDER / self.name.lstrip("/")
        self.descriptor = os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_RDWR, mode)
        os.fchmod(self.descriptor, mode)
        self.resize(size)

    def __enter__(self) -> Segment:
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        os.close(self.descriptor)
        if self.path.exists():
            self.path.unlink()

    def resize(self, size: int) -> None:
        os.ftruncate(self.descriptor, size)

    def write(self, content: Any, offset: int = 0) -> None:
        data = content if isinstance(content, bytes) else content.tobytes()
        with mmap.mmap(self.descriptor, 0) as memory:
            memory[offset : offset + len(data)] = data

    def read(self) -> bytes:
        return self.path.read_bytes()

    def handle(self, messages: Any, size: int, offset: int = 0) -> Any:
        return messages.SharedMemoryHandle(name=self.name, size=size, offset=offset)


class Caller:
    """The calls by short names, with one generation's messages; every call has a time limit."""

    def __init__(self, channel: grpc.Channel, messages: Any = generations.LAST) -> None:
        self.messages = messages
        self.stub: Any = Stub(channel, messages)

    def bitmap(self, frame: Any) -> Any:
        height, width = frame.shape[:2]
        return self.messages.Bitmap(width=width, height=height, byte_data=frame.tobytes())

    def shared(self, frame: Any, segment: Segment, offset: int = 0, size: int = 0) -> Any:
        height, width = frame.shape[:2]
        handle = segment.handle(self.messages, size or frame.nbytes, offset)
        return self.messages.Bitmap(width=width, height=height, shared_memory_handle=handle)

    def detect(
        self, model: str, bitmap: Any = None, mask: Any = None, timeout: float = TIMEOUT_S
    ) -> Any:
        """`bitmap`: a Bitmap message, an array, or None to leave it out."""
        if isinstance(bitmap, np.ndarray):
            bitmap = self.bitmap(bitmap)
        request = self.messages.DetectAnomaliesRequest(model_component=model, bitmap=bitmap)
        if mask is not None:
            request.anomaly_mask_params.shared_memory_handle.CopyFrom(mask)
        return self.stub.DetectAnomalies(request, timeout=timeout).detect_anomaly_result

    def detect_later(self, model: str, frame: Any, timeout: float = TIMEOUT_S) -> Any:
        """Send the frame and return the call, a future."""
        request = self.messages.DetectAnomaliesRequest(
            model_component=model, bitmap=self.bitmap(frame)
        )
        return self.stub.DetectAnomalies.future(request, timeout=timeout)

    def start(self, model: str) -> int:
        request = self.messages.StartModelRequest(model_component=model)
        return int(self.stub.StartModel(request, timeout=TIMEOUT_S).status)

    def stop(self, model: str) -> int:
        request = self.messages.StopModelRequest(model_component=model)
        return int(self.stub.StopModel(request, timeout=TIMEOUT_S).status)

    def describe(self, model: str) -> Any:
        request = self.messages.DescribeModelRequest(model_component=model)
        return self.stub.DescribeModel(request, timeout=TIMEOUT_S).model_description

    def list(self) -> Any:
        return self.stub.ListModels(self.messages.ListModelsRequest(), timeout=TIMEOUT_S).models

    def poll(self, model: str, *passing: int) -> Any:
        """Describe until the status is none of `passing`; return that description."""
        end = time.monotonic() + TIMEOUT_S
        while True:
            found = self.describe(model)
            if found.status not in passing:
                return found
            assert time.monotonic() < end, f"{model} stays {found}"
            time.sleep(0.005)

    def run(self, model: str) -> None:
        """Start the model and wait until it is RUNNING."""
        self.start(model)
        found = self.poll(model, generations.STARTING)
        assert found.status == generations.RUNNING, found

    def wait(self, model: str, status: int) -> Any:
        """Describe until the status is `status`."""
        return self.poll(model, *(other for other in range(5) if other != status))


def refused(code: grpc.StatusCode, call: Callable[..., Any], *arguments: Any, **named: Any) -> str:
    """Make the call, check that it ends with `code` and a sentence; return the sentence."""
    with pytest.raises(grpc.RpcError) as caught:
        call(*arguments, **named)
    error: Any = caught.value
    assert error.code() is code, f"{error.code()}: {error.details()}"
    assert error.details()
    return str(error.details())


def until(condition: Callable[[], Any], within_s: float = 60.0) -> Any:
    """Ask again and again until `condition` gives something true; return that."""
    end = time.monotonic() + within_s
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < end, f"not within {within_s} s"
        time.sleep(0.01)


def colors(mask: bytes, width: int, height: int) -> Tuple[Any, Any]:
    """Return the colours of a mask, (n, 3), and how many pixels each has."""
    pixels = np.frombuffer(mask, np.uint8).reshape(height, width, 3)
    return np.unique(pixels.reshape(-1, 3), axis=0, return_counts=True)
