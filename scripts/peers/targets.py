"""How a client calls each kind of server: one frame there, score and mask back.

The frame is prepared as far as a camera's would be: in shared memory where the server reads it from
there, as bytes everywhere else. A message that carries pixels is built again for
each call, as it would be for a new frame.
"""

from __future__ import annotations

import http.client
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Callable, ContextManager, Dict, Iterator, Tuple

import numpy as np

from edge_agent.benchmark import served
from edge_agent.benchmark.kserve import (
    KServeClient,
    KServeRegion,
    KServeReply,
    KServeTensor,
    byte_elements,
    whole_frame,
)
from edge_agent.benchmark.loops import OK
from edge_agent.client import Client
from edge_agent.client.segment import FrameSegment
from edge_agent.demo.parts import draw_frame
from scripts.peers.predictor import MODEL

if TYPE_CHECKING:
    from numpy.typing import NDArray


CALL_LIMIT_S = 30.0


@dataclass(frozen=True)
class PeerReply:
    """A server's result for the frame: its score, the share of mask pixels that aren't white."""

    score: float
    marked: float


@dataclass(frozen=True)
class PeerTarget:
    """A server: how it is called, where it listens, the frame's (width, height)."""

    kind: str  # a name of KINDS
    address: str
    size: Tuple[int, int]


@dataclass(frozen=True)
class PeerConnection:
    """`call` sends one frame and takes the answer off the wire; `read` looks at such an answer."""

    call: Callable[[], object]
    read: Callable[[Any], PeerReply]


def open_target(target: PeerTarget) -> ContextManager[PeerConnection]:
    """Connect to `target`, with a frame ready to be sent."""
    frame = draw_frame(*target.size)
    opened: ContextManager[PeerConnection] = contextmanager(KINDS[target.kind])(
        target.address, frame
    )
    return opened


def _agent(address: str, frame: NDArray[np.uint8], transport: str) -> Iterator[PeerConnection]:
    def checked() -> None:
        answer = send()
        if answer.status != OK:
            raise RuntimeError(answer.status)

    def read(_: object) -> PeerReply:
        with Client(address) as client:
            prediction = client.detect(served.MODEL, frame, transport)
        assert prediction.mask is not None
        return PeerReply(prediction.score, _marked(prediction.mask))

    with served.Camera(address, served.MODEL, frame) as camera:
        send = camera.by_bytes if transport == "bytes" else camera.by_shared_memory
        yield PeerConnection(checked, read)


def _agent_bytes(address: str, frame: NDArray[np.uint8]) -> Iterator[PeerConnection]:
    return _agent(address, frame, "bytes")


def _agent_shared_memory(address: str, frame: NDArray[np.uint8]) -> Iterator[PeerConnection]:
    return _agent(address, frame, "shared_memory")


def _kserve_elements(address: str, frame: NDArray[np.uint8]) -> Iterator[PeerConnection]:
    """Send the frame as one element of a BYTES tensor, its size as a tensor of its own."""
    pixels = frame.tobytes()
    size = KServeTensor("size", "INT32", (1, 2), np.array(frame.shape[1::-1], "<i4").tobytes())

    def read(answer: KServeReply) -> PeerReply:
        mask = np.frombuffer(answer.outputs["mask"][0], np.uint8)
        return PeerReply(_score(answer), _marked(mask))

    with KServeClient(address, MODEL, CALL_LIMIT_S) as client:
        yield PeerConnection(lambda: client.infer([byte_elements("frame", [pixels]), size]), read)


def _kserve_tensors(address: str, frame: NDArray[np.uint8]) -> Iterator[PeerConnection]:
    def read(answer: KServeReply) -> PeerReply:
        return PeerReply(_score(answer), _marked(np.asarray(answer.outputs["mask"])))

    with KServeClient(address, MODEL, CALL_LIMIT_S) as client:
        yield PeerConnection(lambda: client.infer([whole_frame("frame", frame)]), read)


def _kserve_shared_memory(address: str, frame: NDArray[np.uint8]) -> Iterator[PeerConnection]:
    """Send names only: frame and mask lie in one registered segment."""
    segment = FrameSegment(frame.nbytes)
    np.copyto(segment.frame(frame.shape[1], frame.shape[0]), frame)
    mask = segment.mask(frame.shape[1], frame.shape[0])
    name = segment.handles(frame.nbytes)[0].name
    tensor = KServeTensor(
        "frame", "UINT8", (1, *frame.shape), region=KServeRegion(name, frame.nbytes)
    )
    outputs = {"score": None, "mask": KServeRegion(name, frame.nbytes, offset=frame.nbytes)}

    def read(answer: KServeReply) -> PeerReply:
        return PeerReply(_score(answer), _marked(mask))

    with closing(segment), KServeClient(address, MODEL, CALL_LIMIT_S) as client:
        client.register(name, f"/{name}", 2 * frame.nbytes)
        try:
            yield PeerConnection(lambda: client.infer([tensor], outputs), read)
        finally:
            client.unregister(name)


def _http(address: str, frame: NDArray[np.uint8]) -> Iterator[PeerConnection]:
    """Send the pixels as the body, the size in headers; the mask comes back as the body."""
    pixels = frame.tobytes()
    headers = {
        "Content-Type": "application/octet-stream",
        "Frame-Width": str(frame.shape[1]),
        "Frame-Height": str(frame.shape[0]),
    }

    def call() -> Tuple[str, bytes]:
        connection.request("POST", "/predict", pixels, headers)
        response = connection.getresponse()
        body = response.read()
        if response.status != http.client.OK:
            raise RuntimeError(f"HTTP {response.status}: {body[:200]!r}")
        return response.headers["Frame-Score"], body

    def read(answer: Tuple[str, bytes]) -> PeerReply:
        return PeerReply(float(answer[0]), _marked(np.frombuffer(answer[1], np.uint8)))

    with closing(http.client.HTTPConnection(address, timeout=CALL_LIMIT_S)) as connection:
        yield PeerConnection(call, read)


def _score(reply: KServeReply) -> float:
    return float(np.asarray(reply.outputs["score"]).reshape(()))


def _marked(mask: NDArray[np.uint8]) -> float:
    """Return the share of pixels that are not white; a mask is uint8 RGB of any shape."""
    pixels = mask.reshape(-1, 3)
    return float((pixels != 255).any(axis=1).mean())


KINDS: Dict[str, Callable[[str, NDArray[np.uint8]], Iterator[PeerConnection]]] = {
    "agent, shared memory": _agent_shared_memory,
    "agent, bytes": _agent_bytes,
    "KServe gRPC, bytes": _kserve_elements,
    "KServe gRPC, raw tensor": _kserve_tensors,
    "KServe gRPC, shared memory": _kserve_shared_memory,
    "HTTP, raw body": _http,
}


def error_line(error: Exception) -> str:
    """Return an error in one line; gRPC's own text has many."""
    details = getattr(error, "details", None)
    return f"{type(error).__name__}: {details() if callable(details) else error}"
