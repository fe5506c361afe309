"""A tiny server that speaks the Open Inference Protocol over a real socket.

Its model takes a frame, gives its mean as `score` and its negative as `mask`; frames and masks may
lie in registered shared memory. With `reply` set it answers ModelInfer with that instead.
"""

from __future__ import annotations

import mmap
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Dict, Iterator, Optional

import grpc
import numpy as np

from edge_agent.wire import kserve_v2_pb2 as wire

METHODS = {
    "ServerLive": "server_live",
    "ServerReady": "server_ready",
    "ModelReady": "model_ready",
    "ModelMetadata": "model_metadata",
    "ModelInfer": "model_infer",
    "SystemSharedMemoryRegister": "system_shared_memory_register",
    "SystemSharedMemoryUnregister": "system_shared_memory_unregister",
}


class Servicer:
    def __init__(self) -> None:
        self.ready = True
        self.reply: Optional[wire.ModelInferResponse] = None
        self.requests: list[wire.ModelInferRequest] = []
        self.regions: Dict[str, str] = {}

    def server_live(self, request: Any, context: Any) -> Any:
        return wire.ServerLiveResponse(live=True)

    def server_ready(self, request: Any, context: Any) -> Any:
        return wire.ServerReadyResponse(ready=self.ready)

    def model_ready(self, request: Any, context: Any) -> Any:
        return wire.ModelReadyResponse(ready=self.ready)

    def model_metadata(self, request: Any, context: Any) -> Any:
        frame = wire.ModelMetadataResponse.TensorMetadata(
            name="frame", datatype="UINT8", shape=[-1, -1, -1, 3]
        )
        return wire.ModelMetadataResponse(name=request.name, inputs=[frame])

    def model_infer(self, request: Any, context: Any) -> Any:
        self.requests.append(request)
        if self.reply is not None:
            return self.reply
        entry = request.inputs[0]
        region = entry.parameters["shared_memory_region"].string_param
        pixels = self._map(entry.parameters) if region else request.raw_input_contents[0]
        frame = np.frombuffer(pixels, np.uint8).reshape(tuple(entry.shape))
        reply = wire.ModelInferResponse(model_name=request.model_name)
        reply.outputs.add(name="score", datatype="FP32", shape=[1, 1])
        reply.raw_output_contents.append(np.float32(frame.mean()).tobytes())
        reply.outputs.add(name="mask", datatype="UINT8", shape=frame.shape)
        placed = [one for one in request.outputs if "shared_memory_region" in one.parameters]
        for output in placed:
            self._map(output.parameters)[:] = (255 - frame).tobytes()
        reply.raw_output_contents.append(b"" if placed else (255 - frame).tobytes())
        return reply

    def system_shared_memory_register(self, request: Any, context: Any) -> Any:
        self.regions[request.name] = request.key
        return wire.SystemSharedMemoryRegisterResponse()

    def system_shared_memory_unregister(self, request: Any, context: Any) -> Any:
        del self.regions[request.name]
        return wire.SystemSharedMemoryUnregisterResponse()

    def _map(self, parameters: Any) -> memoryview:
        key = self.regions[parameters["shared_memory_region"].string_param]
        offset = parameters["shared_memory_offset"].int64_param
        size = parameters["shared_memory_byte_size"].int64_param
        with Path(f"/dev/shm{key}").open("r+b") as file:
            return memoryview(mmap.mmap(file.fileno(), 0))[offset : offset + size]


@contextmanager
def serving(servicer: Servicer) -> Iterator[str]:
    options = [("grpc.max_receive_message_length", -1)]
    server = grpc.server(ThreadPoolExecutor(4), options=options)
    handlers = {
        name: grpc.unary_unary_rpc_method_handler(
            getattr(servicer, method),
            request_deserializer=getattr(wire, f"{name}Request").FromString,
            response_serializer=getattr(wire, f"{name}Response").SerializeToString,
        )
        for name, method in METHODS.items()
    }
    service = "inference.GRPCInferenceService"
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(0).wait()
