"""HTTP/2 frames made by hand (RFC 9113, HPACK of RFC 7541 without Huffman), to break the rules."""

from __future__ import annotations

import socket
import struct
from pathlib import Path
from types import TracebackType
from typing import Iterable, Optional, Tuple, Type

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = (
    0, 1, 2, 3, 4, 6, 7, 8, 9,
)  # fmt: skip
END_STREAM, ACK, END_HEADERS = 0x1, 0x1, 0x4
CANCEL = struct.pack(">L", 8)

Headers = Iterable[Tuple[bytes, bytes]]


def frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    return struct.pack(">L", len(payload))[1:] + struct.pack(">BBL", kind, flags, stream) + payload


def whole(number: int, bits: int, first: int) -> bytes:
    """An integer with a prefix of `bits` bits (RFC 7541, 5.1)."""
    most = (1 << bits) - 1
    if number < most:
        return bytes([first | number])
    content, number = bytearray([first | most]), number - most
    while number > 127:
        content.append(number & 127 | 128)
        number >>= 7
    return bytes([*content, number])


def literal(name: bytes, value: bytes, kept: bool = False) -> bytes:
    """A header that the peer keeps in its table, or doesn't."""
    first = b"\x40" if kept else b"\x00"
    return first + whole(len(name), 7, 0) + name + whole(len(value), 7, 0) + value


def block(headers: Headers) -> bytes:
    return b"".join(literal(name, value) for name, value in headers)


def call(path: bytes, *more: Tuple[bytes, bytes]) -> bytes:
    """The header block of a gRPC call."""
    return block(
        [
            (b":method", b"POST"), (b":scheme", b"http"), (b":path", path),
            (b":authority", b"localhost"), (b"te", b"trailers"),
            (b"content-type", b"application/grpc"), *more,
        ]
    )  # fmt: skip


def message(content: bytes, compressed: bool = False) -> bytes:
    """A gRPC message as it lies in DATA frames."""
    return struct.pack(">BL", compressed, len(content)) + content


class Connection:
    """A raw connection to a Unix socket; what the peer closes early is no error."""

    def __init__(self, path: Path, greet: bool = True) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(10.0)
        self.socket.connect(str(path))
        self.is_open = True
        if greet:
            self.send(PREFACE + frame(SETTINGS))

    def __enter__(self) -> Connection:
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        self.socket.close()

    def send(self, content: bytes) -> bool:
        """Send all; False once the peer has closed the connection or takes no more."""
        try:
            self.socket.sendall(content)
        except OSError:
            self.is_open = False
        return self.is_open

    def drain(self) -> bytes:
        """Return what has come, without waiting."""
        content = b""
        self.socket.setblocking(False)
        try:
            while True:
                part = self.socket.recv(1 << 20)
                if not part:
                    self.is_open = False
                    return content
                content += part
        except OSError:
            return content
        finally:
            self.socket.settimeout(10.0)
