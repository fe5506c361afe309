"""The smallest gRPC server around the raw engine: what gRPC and a second process cost alone.

It reads no request, checks nothing and publishes nothing: each call computes a frame that it has
from the start, and the answer is empty. A job of `jobs`.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Dict

import grpc
import numpy as np

from edge_agent.benchmark.raw import RawEngine, place
from edge_agent.errors import EdgeAgentError
from edge_agent.protocol import DETECT_ANOMALIES
from edge_agent.runtime.packages.package import Package
from edge_agent.runtime.vision import preprocess


class BareJob:
    """Answers DetectAnomalies at `address` while it is open; it takes no turns."""

    def __init__(self, package: str, threads: int, frame: str, address: str) -> None:
        preprocess.use_one_thread()
        self._engine = RawEngine(Package(Path(package)), threads)
        self._image = np.load(frame)
        self._address = address

    def __enter__(self) -> BareJob:
        with ExitStack() as stack:
            frame, mask = place(stack, self._image)

            def detect(_request: bytes, _context: Any) -> bytes:
                self._engine.detect(frame, mask)
                return b""  # an answer whose fields are all 0

            server = grpc.server(ThreadPoolExecutor(1))
            _, service, name = DETECT_ANOMALIES.split("/")
            handler = grpc.unary_unary_rpc_method_handler(detect)
            server.add_generic_rpc_handlers(
                (grpc.method_handlers_generic_handler(service, {name: handler}),)
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
