"""Servers that speak the Open Inference Protocol V2 (KServe) over gRPC: a client, and a camera.

Such a server takes tensors. A frame is sent whole, or resized on the client's side as the agent
does it itself; tensors travel as raw contents, or lie in system shared memory where a server has
Triton's extension.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List, Mapping, Optional, Sequence, Tuple, Union

import grpc
import numpy as np

from edge_agent.benchmark.loops import CallResult
from edge_agent.errors import InvalidFrame, InvalidRequest
from edge_agent.runtime.packages.package import Package
from edge_agent.runtime.vision.postprocess import Postprocessor
from edge_agent.runtime.vision.preprocess import item_shape, write_input
from edge_agent.types import Frame
from edge_agent.wire import kserve_v2_pb2 as wire

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edge_agent.manifest import InputSpec

    Value = Union[NDArray[Any], List[bytes]]
    Outputs = Mapping[str, Optional["KServeRegion"]]

SERVICE = "/inference.GRPCInferenceService/"
NO_LIMIT = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
TRANSPORT = "kserve"
CALL_LIMIT_S = 10.0
_DTYPES = {
    "BOOL": np.bool_, "UINT8": np.uint8, "INT32": np.int32, "INT64": np.int64,
    "FP32": np.float32, "FP64": np.float64,
}  # fmt: skip
_CONTENTS = {
    "BOOL": "bool_contents", "UINT8": "uint_contents", "INT32": "int_contents",
    "INT64": "int64_contents", "FP32": "fp32_contents", "FP64": "fp64_contents",
}  # fmt: skip


@dataclass(frozen=True)
class KServeRegion:
    """`size` bytes from `offset` on of a shared memory object registered as `name`."""

    name: str
    size: int
    offset: int = 0


@dataclass(frozen=True)
class KServeTensor:
    """One input: its elements row by row in `data`, or in shared memory at `region`."""

    name: str
    datatype: str  # "UINT8", "FP32", "BYTES", ...
    shape: Tuple[int, ...]
    data: bytes = b""
    region: Optional[KServeRegion] = None


@dataclass(frozen=True)
class KServeReply:
    """The outputs by name: arrays, or for BYTES their elements."""

    outputs: Dict[str, Value]


class KServeClient:
    """Calls one model of the server at `address` (host:port)."""

    def __init__(self, address: str, model: str, timeout_s: float = 30.0) -> None:
        self._channel = grpc.insecure_channel(address, NO_LIMIT)
        self._address, self._model, self._timeout_s = address, model, timeout_s

    def __enter__(self) -> KServeClient:
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()

    def infer(
        self, inputs: Sequence[KServeTensor], outputs: Optional[Outputs] = None
    ) -> KServeReply:
        """One inference.

        outputs: the names wanted, each with the region it shall be written to instead of being
        returned, or None; without it the server returns all.
        """
        wanted = outputs or {}
        request = self._request(inputs, wanted)
        reply = self._call("ModelInfer", request, wire.ModelInferResponse, self._timeout_s)
        placed = {name for name, region in wanted.items() if region is not None}
        return KServeReply(_outputs(reply, placed))

    def register(self, name: str, key: str, size: int) -> None:
        """Register the POSIX shared memory object `key` of `size` bytes as `name`."""
        request = wire.SystemSharedMemoryRegisterRequest(name=name, key=key, byte_size=size)
        reply = wire.SystemSharedMemoryRegisterResponse
        self._call("SystemSharedMemoryRegister", request, reply, self._timeout_s)

    def unregister(self, name: str) -> None:
        """Unregister a shared memory object."""
        request = wire.SystemSharedMemoryUnregisterRequest(name=name)
        reply = wire.SystemSharedMemoryUnregisterResponse
        self._call("SystemSharedMemoryUnregister", request, reply, self._timeout_s)

    def _request(self, inputs: Sequence[KServeTensor], outputs: Outputs) -> wire.ModelInferRequest:
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


class KServeCamera:
    """Calls ModelInfer at `url` with one image again and again; `package` is the same model.

    It preprocesses before and postprocesses after each call with the agent's own code, because such
    a server takes and gives tensors.
    """

    def __init__(self, url: str, package: str, image: NDArray[np.uint8]) -> None:
        address, model = parse_url(url)
        manifest = Package(Path(package)).manifest
        self._client = KServeClient(address, model, CALL_LIMIT_S)
        self._image, self._spec = image, manifest.input
        self._postprocessor = Postprocessor(manifest)
        self._mask: NDArray[np.uint8] = np.empty_like(image)

    def __enter__(self) -> KServeCamera:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.__exit__()

    def by_tensor(self) -> CallResult:
        """One frame, from the image to its verdict."""
        height, width = self._image.shape[:2]
        try:
            reply = self._client.infer([resized_frame(self._image, self._spec)])
        except grpc.RpcError as error:
            return CallResult(error.code().name)
        outputs = {name: np.asarray(value) for name, value in reply.outputs.items()}
        self._postprocessor.predict(outputs, 0, width, height, self._mask)
        return CallResult()


def parse_url(url: str) -> Tuple[str, str]:
    """Return address and model of grpc://HOST:PORT/MODEL. Raises InvalidRequest."""
    scheme, _, rest = url.rpartition("://")
    address, _, model = rest.partition("/")
    if scheme not in ("", "grpc") or ":" not in address or not model:
        raise InvalidRequest(f"--compare is {url!r}; expected grpc://HOST:PORT/MODEL.")
    return address, model


def whole_frame(name: str, frame: NDArray[np.uint8]) -> KServeTensor:
    """Return `frame`, uint8 RGB (height, width, 3), as a batch of one; the server resizes."""
    _check(frame)
    return KServeTensor(name, "UINT8", (1, *frame.shape), frame.tobytes())


def resized_frame(frame: NDArray[np.uint8], spec: InputSpec) -> KServeTensor:
    """Return the model's own input, made of `frame` on this side; a batch of one."""
    _check(frame)
    slot = np.empty(item_shape(spec), spec.dtype)
    write_input(Frame(frame), spec, slot)
    datatype = "UINT8" if spec.dtype == "uint8" else "FP32"
    return KServeTensor(spec.tensor, datatype, (1, *slot.shape), slot.tobytes())


def byte_elements(name: str, elements: Sequence[bytes]) -> KServeTensor:
    """Return a BYTES tensor; in raw contents each element stands behind its 4-byte length."""
    data = b"".join(part for one in elements for part in (struct.pack("<I", len(one)), one))
    return KServeTensor(name, "BYTES", (len(elements),), data)


def _check(frame: NDArray[np.uint8]) -> None:
    if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8:
        raise InvalidFrame(
            f"The image is {frame.dtype} of shape {frame.shape}; expected uint8 RGB "
            "(height, width, 3)."
        )


def _point(parameters: Any, region: KServeRegion) -> None:
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
