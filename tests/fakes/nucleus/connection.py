"""One component's connection to the fake nucleus."""

from __future__ import annotations

import json
import socket
import threading
from contextlib import suppress
from typing import Any, BinaryIO, Dict, Mapping, Optional, Protocol

from tests.fakes.nucleus.frames import Frame, Header, decode, encode, size_of

MESSAGE, ERROR, CONNECT, CONNECT_ACK = 0, 1, 4, 5
ACCEPTED, TERMINATE = 1, 2
LITE_FRAME_BYTES = 10_000


class Nucleus(Protocol):
    """What answers on the connection's other side."""

    kind: str
    largest_frame: int

    def connected(self, connection: Connection, identity: Mapping[str, str]) -> bool: ...

    def asked(self, connection: Connection, stream: int, operation: str, request: Any) -> None: ...

    def ended(self, connection: Connection, stream: Optional[int] = None) -> None: ...


class Connection:
    """One component's connection, and the thread that reads it."""

    def __init__(self, nucleus: Nucleus, accepted: socket.socket) -> None:
        self._nucleus, self._socket = nucleus, accepted
        self._sending = threading.Lock()
        self.closed = False
        self.thread = threading.Thread(target=self._serve)

    def close(self) -> None:
        with suppress(OSError):  # it is closed already
            self._socket.shutdown(socket.SHUT_RDWR)

    def event(self, stream: int, model: str, **content: Any) -> None:
        """Send a response or an event; lite silently leaves out what is too large."""
        self.send(MESSAGE, 0, stream, model, content)

    def refuse(self, stream: int, model: str) -> None:
        """Send an error; its text in lite's way, which clients can't read."""
        self.send(ERROR, TERMINATE, stream, model, {"_message": "it isn't told"})

    def send(
        self, kind: int, flags: int, stream: int, model: str = "", content: Any = None
    ) -> None:
        headers: Dict[str, Header] = {
            ":message-type": kind, ":message-flags": flags, ":stream-id": stream,
        }  # fmt: skip
        if model:
            headers[":content-type"] = "application/json"
            headers["service-model-type"] = f"aws.greengrass#{model}"
        frame = encode(headers, b"" if content is None else json.dumps(content).encode())
        if self._nucleus.kind == "lite" and len(frame) > LITE_FRAME_BYTES:
            return
        with self._sending, suppress(OSError):  # the component has gone
            self._socket.sendall(frame)

    def _serve(self) -> None:
        with self._socket, self._socket.makefile("rb") as stream, suppress(OSError, EOFError):
            while self._take(*self._read(stream)):
                pass
        self.closed = True
        self._nucleus.ended(self)

    def _take(self, headers: Dict[str, Any], payload: bytes) -> bool:
        """Handle a frame; False when the connection is to be closed."""
        if headers[":message-type"] == CONNECT:
            return self._nucleus.connected(self, json.loads(payload))
        stream = headers[":stream-id"]
        if headers[":message-flags"] & TERMINATE:
            self._nucleus.ended(self, stream)
        else:
            operation = headers["operation"].partition("#")[2]
            assert headers["service-model-type"] == f"aws.greengrass#{operation}Request"
            self._nucleus.asked(self, stream, operation, json.loads(payload))
        return True

    def _read(self, stream: BinaryIO) -> Frame:
        start = stream.read(4)
        size = size_of(start)
        self._nucleus.largest_frame = max(self._nucleus.largest_frame, size)
        if self._nucleus.kind == "lite" and size > LITE_FRAME_BYTES:
            raise EOFError
        return decode(start + stream.read(size - 4))
