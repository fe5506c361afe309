"""A small client of servers that speak the Open Inference Protocol V2 over gRPC.

Such a server takes tensors. A frame is sent whole, or resized on the client's side as the agent
does it itself; tensors travel as raw contents, or lie in system shared memory where a server has
Triton's extension.
"""

from __future__ import annotations

import struct
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Dict, List, Mapping, Optional, Sequence, Tuple, Union

import grpc
import numpy as np

from edge_agent.errors import AgentUnavailable, InvalidFrame, InvalidRequest
from edge_agent.runtime.vision.preprocess import item_shape, write_input
from edge_agent.types import Frame
from edge_agent.wire import kserve_v2_pb2 as wire

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edge_agent.manifest import InputSpec

    Value = Union[NDArray[Any], List[bytes]]
    Outputs = Mapping[str, Optional["Region"]]

SERVICE = "/inference.GRPCInferenceService/"
NO_LIMIT = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
POLL_EVERY_S = 0.1
_DTYPES = {
    "BOOL": np.bool_, "UINT8": np.uint8, "INT32": np.int32, "INT64": np.int64,
    "FP32": np.float32, "FP64": np.float64,
}  # fmt: skip
_CONTENTS = {
    "BOOL": "bool_contents", "UINT8": "uint_contents", "INT32": "int_contents",
    "INT64": "int64_contents", "FP32": "fp32_contents", "FP64": "fp64_contents",
}  # fmt: skip


@dataclass(frozen=True)
class Region:
    """`size` bytes from `offset` on of a shared memory object registered as `name`."""

    name: str
    size: int
    offset: int = 0


@dataclass(frozen=True)
class Tensor:
    """One input: its elements row by row in `data`, or in shared memory at `region`."""

    name: str
    datatype: str  # "UINT8", "FP32", "BYTES", ...
    shape: Tuple[int, ...]
    data: bytes = b""
    region: Optional[Region] = None


@dataclass(frozen=True)
class Answer:
    """The outputs by name, arrays or for BYTES their elements, and how long the call took."""

    outputs: Dict[str, Value]
    seconds: float


class KserveClient:
    """Calls one model of the server at `address` (host:port)."""

    def __init__(self, address: str, model: str, timeout_s: float = 30.0) -> None:
        self._channel = grpc.insecure_channel(address, NO_LIMIT)
        self._address, self._model, self._timeout_s = address, model, timeout_s

    def __enter__(self) -> KserveClient:
        return self

    def __exit__(self, *_: Any) -> None:
        self._channel.close()

    def wait_ready(self, within_s: float) -> None:
        """Wait until the model is loaded. Raises AgentUnavailable with what was heard last."""
        end = time.monotonic() + within_s
        while True:
            try:
                request = wire.ModelReadyRequest(name=self._model)
                if self._call("ModelReady", request, wire.ModelReadyResponse, 1.0).ready:
                    return
                heard = "it isn't loaded"
            except grpc.RpcError as error:
                heard = f"{error.code().name}: {error.details()}"
            if time.monotonic() > end:
                raise AgentUnavailable(
                    f"Model {self._model!r} at {self._address} isn't ready within {within_s:g} s "
                    f"({heard})."
                )
            time.sleep(POLL_EVERY_S)

    def metadata(self) -> wire.ModelMetadataResponse:
        """Return what the model takes and gives."""
        request = wire.ModelMetadataRequest(name=self._model)
        reply: wire.ModelMetadataResponse = self._call(
            "ModelMetadata", request, wire.ModelMetadataResponse, self._timeout_s
        )
        return reply

    def infer(self, inputs: Sequence[Tensor], outputs: Optional[Outputs] = None) -> Answer:
        """One inference.

        outputs: the names wanted, each with the region it shall be written to instead of being
        returned, or None; without it the server returns all.
        """
        began = time.perf_counter()
        wanted = outputs or {}
        request = self._request(inputs, wanted)
        reply = self._call("ModelInfer", request, wire.ModelInferResponse, self._timeout_s)
        placed = {name for name, region in wanted.items() if region is not None}
        return Answer(_outputs(reply, placed), time.perf_counter() - began)

    def register(self, name: str, key: str, size: int) -> None:
        """Make the POSIX shared memory object `key` of `size` bytes known as `name`."""
        request = wire.SystemSharedMemoryRegisterRequest(name=name, key=key, byte_size=size)
        reply = wire.SystemSharedMemoryRegisterResponse
        self._call("SystemSharedMemoryRegister", request, reply, self._timeout_s)

    def unregister(self, name: str) -> None:
        """Let the server forget a shared memory object."""
        request = wire.SystemSharedMemoryUnregisterRequest(name=name)
        reply = wire.SystemSharedMemoryUnregisterResponse
        self._call("SystemSharedMemoryUnregister", request, reply, self._timeout_s)

    def _request(self, inputs: Sequence[Tensor], outputs: Outputs) -> wire.ModelInferRequest:
        request = wire.ModelInferRequest(model_name=self._model)
        for tensor in inputs:
            entry = request.inputs.add(
                name=tensor.name, datatype=tensor.datatype, shape=tensor.shape
            )
            if tensor.region is not None:
                _point(entry.parameters, tensor.region)
            else:
                request.raw_input_contents.append(tensor.data)
        for name, region in outputs.items():
            output = request.outputs.add(name=name)
            if region is not None:
                _point(output.parameters, region)
        return request

    def _call(self, method: str, request: Any, reply_class: Any, timeout_s: float) -> Any:
        call = self._channel.unary_unary(
            SERVICE + method,
            request_serializer=type(request).SerializeToString,
            response_deserializer=reply_class.FromString,
        )
        return call(request, timeout=timeout_s)


def whole_frame(name: str, frame: NDArray[np.uint8]) -> Tensor:
    """Return `frame`, uint8 RGB (height, width, 3), as a batch of one; the server resizes."""
    _check(frame)
    return Tensor(name, "UINT8", (1, *frame.shape), frame.tobytes())


def resized_frame(frame: NDArray[np.uint8], spec: InputSpec) -> Tensor:
    """Return the model's own input, made of `frame` on this side; a batch of one."""
    _check(frame)
    slot: NDArray[Any] = np.empty(item_shape(spec), spec.dtype)
    write_input(Frame(frame), spec, slot)
    datatype = "UINT8" if spec.dtype == "uint8" else "FP32"
    return Tensor(spec.tensor, datatype, (1, *slot.shape), slot.tobytes())


def byte_elements(name: str, elements: Sequence[bytes]) -> Tensor:
    """Return a BYTES tensor; in raw contents each element stands behind its 4-byte length."""
    data = b"".join(part for one in elements for part in (struct.pack("<I", len(one)), one))
    return Tensor(name, "BYTES", (len(elements),), data)


def _check(frame: NDArray[np.uint8]) -> None:
    if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8:
        raise InvalidFrame(
            f"The image is {frame.dtype} of shape {frame.shape}; expected uint8 RGB "
            "(height, width, 3)."
        )


def _point(parameters: Any, region: Region) -> None:
    parameters["shared_memory_region"].string_param = region.name
    parameters["shared_memory_byte_size"].int64_param = region.size
    parameters["shared_memory_offset"].int64_param = region.offset


def _outputs(reply: wire.ModelInferResponse, placed: set[str]) -> Dict[str, Value]:
    raw = iter(reply.raw_output_contents)
    outputs: Dict[str, Value] = {}
    for entry in reply.outputs:
        content = next(raw, b"")
        if entry.name not in placed:
            outputs[entry.name] = _value(entry, content)
    return outputs


def _value(entry: wire.ModelInferResponse.InferOutputTensor, raw: bytes) -> Value:
    if entry.datatype == "BYTES":
        return _elements(raw) if raw else list(entry.contents.bytes_contents)
    if entry.datatype not in _DTYPES:
        raise InvalidRequest(
            f"Output {entry.name!r} is {entry.datatype}; known are {', '.join(_DTYPES)}, BYTES."
        )
    dtype = _DTYPES[entry.datatype]
    if raw:
        return np.frombuffer(raw, dtype).reshape(tuple(entry.shape))
    values = getattr(entry.contents, _CONTENTS[entry.datatype])
    return np.array(values, dtype).reshape(tuple(entry.shape))


def _elements(raw: bytes) -> List[bytes]:
    elements: List[bytes] = []
    start = 0
    while start < len(raw):
        (size,) = struct.unpack_from("<I", raw, start)
        elements.append(raw[start + 4 : start + 4 + size])
        start += 4 + size
    return elements
