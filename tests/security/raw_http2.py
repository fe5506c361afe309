"""Calls that no gRPC library would send, written as HTTP/2 frames (RFC 9113) on a Unix socket."""

from __future__ import annotations

import socket
import struct
from pathlib import Path
from types import TracebackType
from typing import Optional, Type

DATA, HEADERS, RST_STREAM, SETTINGS, PING = 0, 1, 3, 4, 6
END_STREAM, ACK, END_HEADERS = 1, 1, 4


def frame(kind: int, flags: int, stream: int, body: bytes = b"") -> bytes:
    return (
        struct.pack(">I", len(body))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + body
    )


def _string(text: bytes) -> bytes:
    """RFC 7541, 5.1 and 5.2, without Huffman coding."""
    if len(text) < 127:
        return bytes([len(text)]) + text
    rest, length = len(text) - 127, b"\x7f"
    while rest >= 128:
        length, rest = length + bytes([rest % 128 + 128]), rest // 128
    return length + bytes([rest]) + text


class Connection:
    """Sends calls with whatever headers, one after another."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(10)
        self._socket.connect(str(path))
        self._socket.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0))
        self._stream = -1
        self._buffer = b""

    def __enter__(self) -> Connection:
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        self._socket.close()

    def call(self, path: str, *headers: tuple[bytes, bytes], message: bytes = b"") -> None:
        """Call and wait until the server has ended the call, in whatever way."""
        self._stream += 2
        every = [
            (b":method", b"POST"), (b":scheme", b"http"), (b":path", path.encode()),
            (b":authority", b"x"), (b"te", b"trailers"), (b"content-type", b"application/grpc"),
            *headers,
        ]  # fmt: skip
        block = b"".join(b"\x00" + _string(name) + _string(value) for name, value in every)
        body = b"\0" + struct.pack(">I", len(message)) + message
        self._socket.sendall(
            frame(HEADERS, END_HEADERS, self._stream, block)
            + frame(DATA, END_STREAM, self._stream, body)
        )
        self._await_end()

    def _await_end(self) -> None:
        while True:
            head = self._read(9)
            length, kind, flags = int.from_bytes(head[:3], "big"), head[3], head[4]
            body = self._read(length)
            if kind in (SETTINGS, PING) and not flags & ACK:
                self._socket.sendall(frame(kind, ACK, 0, body if kind == PING else b""))
            ends = kind == RST_STREAM or (kind in (DATA, HEADERS) and flags & END_STREAM)
            if ends and int.from_bytes(head[5:], "big") == self._stream:
                return

    def _read(self, count: int) -> bytes:
        while len(self._buffer) < count:
            more = self._socket.recv(65536)
            if not more:
                raise EOFError
            self._buffer += more
        found, self._buffer = self._buffer[:count], self._buffer[count:]
        return found
