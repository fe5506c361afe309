"""A connection that asks for a model's state and health all the time, and watches the memory."""

from __future__ import annotations

import threading
import time
from typing import Any, List, Optional

import grpc

from edge_agent import protocol
from edge_agent.benchmark import process_usage
from edge_agent.wire import edge_agent_pb2 as wire

EVERY_S = 0.1
LIMIT_S = 10.0
HEALTH = "/grpc.health.v1.Health/Check"


class Asker:
    """Asks every EVERY_S while the context is open; raises at its end what went wrong."""

    def __init__(self, address: str, model: str, pid: Optional[int]) -> None:
        self.times_ms: List[float] = []
        self.rss_mib: List[float] = []  # now and then
        self._channel = grpc.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)])
        self._describe = self._channel.unary_unary(protocol.DESCRIBE_MODEL)
        self._health = self._channel.unary_unary(HEALTH)
        name = model.encode()
        self._describe_request = wire.DescribeModelRequest(model_component=model)
        self._health_request = b"\x0a" + bytes([len(name)]) + name  # HealthCheckRequest.service
        self._pid = pid
        self._over = threading.Event()
        self._error: Optional[BaseException] = None
        self._thread = threading.Thread(target=self._ask)

    def __enter__(self) -> Asker:
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._over.set()
        self._thread.join()
        self._channel.close()
        if self._error is not None:
            raise self._error

    def _ask(self) -> None:
        request = self._describe_request.SerializeToString()
        try:
            while not self._over.wait(EVERY_S):
                for call, content in (
                    (self._describe, request),
                    (self._health, self._health_request),
                ):
                    began_s = time.monotonic()
                    call(content, timeout=LIMIT_S)
                    self.times_ms.append(1000 * (time.monotonic() - began_s))
                if self._pid is not None:
                    self.rss_mib.append(process_usage.rss_mib(self._pid))
        except grpc.RpcError as error:
            self._error = error
