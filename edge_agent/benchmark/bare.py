"""The smallest gRPC server around the raw engine: what gRPC and a second process cost alone.

It reads no request, checks nothing and publishes nothing: each call computes a frame that it has
from the start and gets an answer prepared at the start. A job of `jobs`.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Dict

import grpc
import numpy as np

from edge_agent.benchmark.raw import RawEngine
from edge_agent.client.segment import FrameSegment
from edge_agent.errors import EdgeAgentError
from edge_agent.runtime.package import Package
from edge_agent.runtime.vision import preprocess
from edge_agent.wire import edge_agent_pb2 as wire

SERVICE = "AWS.LookoutVision.EdgeAgent"


class BareJob:
    """Answers DetectAnomalies at `address` while it is open; it takes no turns."""

    def __init__(self, package: str, threads: int, frame: str, address: str) -> None:
        preprocess.use_one_thread()
        self._engine = RawEngine(Package(Path(package)), threads)
        self._image = np.load(frame)
        self._address = address

    def __enter__(self) -> BareJob:
        with ExitStack() as stack:
            height, width = self._image.shape[:2]
            segment = FrameSegment(self._image.nbytes)
            stack.callback(segment.close)
            np.copyto(segment.frame(width, height), self._image)
            place = segment.frame(width, height), segment.mask(width, height)
            answer = wire.DetectAnomaliesResponse()

            def detect(_request: Any, _context: Any) -> wire.DetectAnomaliesResponse:
                self._engine.detect(*place)
                return answer

            handler = grpc.unary_unary_rpc_method_handler(
                detect,
                wire.DetectAnomaliesRequest.FromString,
                wire.DetectAnomaliesResponse.SerializeToString,
            )
            server = grpc.server(ThreadPoolExecutor(1))
            server.add_generic_rpc_handlers(
                (grpc.method_handlers_generic_handler(SERVICE, {"DetectAnomalies": handler}),)
            )
            try:
                server.add_insecure_port(self._address)
            except RuntimeError as error:
                raise EdgeAgentError(f"The bare server can't listen: {error}") from None
            server.start()
            stack.callback(lambda: server.stop(None).wait())
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: Any) -> None:
        self._stack.close()

    def turn(self) -> Dict[str, Any]:
        """Do nothing."""
        return {}
