"""Signed calls over connections that stay open, and how long each took."""

from __future__ import annotations

import http.client
import json
import threading
import time
from typing import Any, Dict, List, Mapping, NamedTuple, Optional

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

REGION = "us-east-1"
PREFIX = "/2020-11-20"


class Rate(NamedTuple):
    """What one run of calls found."""

    p50_ms: float
    p99_ms: float
    calls_per_s: float


class Caller:
    """One user of a server on this machine."""

    def __init__(self, port: int, key: Mapping[str, str]) -> None:
        self._port = port
        self._credentials = Credentials(key["AccessKeyId"], key["SecretAccessKey"])
        self._connection = self._open()

    def call(self, method: str, path: str, values: Optional[Mapping[str, object]] = None) -> Any:
        """Make one call; `path` with its query. Raises RuntimeError for an error."""
        body = b"" if values is None else json.dumps(values).encode()
        return json.loads(_send(self._connection, self._signed(method, path, body)))

    def close(self) -> None:
        """Close the connection of `call`."""
        self._connection.close()

    def rate(self, path: str, seconds: float, connections: int) -> Rate:
        """Call GET `path` in closed loops for some seconds.

        One signature serves all calls, as the service verifies each and the client would be slower.
        """
        request = self._signed("GET", path, b"")
        end = time.monotonic() + seconds
        took: List[List[float]] = [[] for _ in range(connections)]
        threads = [
            threading.Thread(target=self._loop, args=(request, end, found)) for found in took
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        every = sorted(time_s for found in took for time_s in found)
        return Rate(
            every[len(every) // 2] * 1e3, every[len(every) * 99 // 100] * 1e3, len(every) / seconds
        )

    def _loop(self, request: SignedRequest, end: float, found: List[float]) -> None:
        connection = self._open()
        while time.monotonic() < end:
            began = time.perf_counter()
            _send(connection, request)
            found.append(time.perf_counter() - began)
        connection.close()

    def _signed(self, method: str, path: str, body: bytes) -> SignedRequest:
        url = f"http://127.0.0.1:{self._port}{PREFIX}{path}"
        request = AWSRequest(method, url, {"Content-Type": "application/json"}, body)
        SigV4Auth(self._credentials, "lookoutvision", REGION).add_auth(request)
        return SignedRequest(method, f"{PREFIX}{path}", dict(request.headers), body)

    def _open(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)


class SignedRequest(NamedTuple):
    """A request as it goes over the connection."""

    method: str
    path: str
    headers: Dict[str, str]
    body: bytes


def _send(connection: http.client.HTTPConnection, request: SignedRequest) -> bytes:
    connection.request(request.method, request.path, request.body, request.headers)
    answer = connection.getresponse()
    content = answer.read()
    if answer.status >= 300:
        raise RuntimeError(f"{request.path}: {answer.status} {content.decode()}")
    return content
