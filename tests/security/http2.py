"""A gRPC call written byte by byte, as no gRPC library would let one write it."""

from __future__ import annotations

import socket
import struct
from typing import Tuple


def raw_call(
    client: socket.socket, method: str, message: bytes, *metadata: Tuple[bytes, bytes]
) -> bytes:
    """Call with any bytes in the metadata.

    Returns what came back up to the end of the stream, headers packed (RFC 7541), not Huffman.
    """

    def frame(kind: int, flags: int, stream: int, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content))[1:] + struct.pack(">BBI", kind, flags, stream) + content
        )

    def literal(name: bytes, value: bytes) -> bytes:
        return b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value

    headers = b"".join(
        literal(*header)
        for header in (
            (b":method", b"POST"),
            (b":scheme", b"http"),
            (b":path", f"/AWS.LookoutVision.EdgeAgent/{method}".encode()),
            (b":authority", b"localhost"),
            (b"te", b"trailers"),
            (b"content-type", b"application/grpc"),
            *metadata,
        )
    )
    body = struct.pack(">BI", 0, len(message)) + message
    client.settimeout(20.0)
    client.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, b""))
    client.sendall(frame(1, 4, 1, headers) + frame(0, 1, 1, body))
    heard = b""
    while True:
        head = exactly(client, 9)
        kind, flags = head[3], head[4]
        content = exactly(client, int.from_bytes(head[:3], "big"))
        if head[5:] == struct.pack(">I", 1):
            heard += content
            if kind == 3 or (kind in (0, 1) and flags & 1):
                return heard


def exactly(client: socket.socket, count: int) -> bytes:
    content = b""
    while len(content) < count:
        more = client.recv(count - len(content))
        assert more, "the connection ended"
        content += more
    return content
