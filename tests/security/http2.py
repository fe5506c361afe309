"""Just enough of HTTP/2 (RFC 9113) by hand to misbehave as no client library would."""

from __future__ import annotations

import socket
import struct
from contextlib import suppress
from pathlib import Path
from typing import Dict, List, Tuple

from tests.security import raw_http2
from tests.security.raw_http2 import (
    ACK,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    PING,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    call,
    frame,
    message,
)

DETECT = "/AWS.LookoutVision.EdgeAgent/DetectAnomalies"


def beginning(announced: int) -> bytes:
    """The head of a gRPC message that is announced to have so many bytes."""
    return struct.pack("!BI", 0, announced)


def raw_call(
    client: socket.socket, method: str, content: bytes, *metadata: Tuple[bytes, bytes]
) -> bytes:
    """Call with any bytes in the metadata.

    Returns what came back up to the end of the stream, headers packed (RFC 7541), not Huffman.
    """
    path = f"/AWS.LookoutVision.EdgeAgent/{method}".encode()
    client.settimeout(20.0)
    client.sendall(PREFACE + frame(SETTINGS))
    client.sendall(frame(HEADERS, END_HEADERS, 1, call(path, *metadata)))
    client.sendall(frame(DATA, END_STREAM, 1, message(content)))
    heard = b""
    while True:
        head = exactly(client, 9)
        kind, flags = head[3], head[4]
        payload = exactly(client, int.from_bytes(head[:3], "big"))
        if head[5:] == struct.pack("!I", 1):
            heard += payload
            if kind == RST_STREAM or (kind in (DATA, HEADERS) and flags & END_STREAM):
                return heard


def exactly(client: socket.socket, count: int) -> bytes:
    content = b""
    while len(content) < count:
        more = client.recv(count - len(content))
        assert more, "the connection ended"
        content += more
    return content


class Connection(raw_http2.Connection):
    """A connection to the agent's socket that reads nothing unless it is told to."""

    def __init__(self, path: Path, receive_bytes: int = 0) -> None:
        super().__init__(path, greet=False)
        if receive_bytes:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        self.socket.settimeout(20.0)
        self._next = 1
        self._initial_window = 65535
        self._heard = b""
        self._refused: List[int] = []
        self.settings: Dict[int, int] = {}  # of the other end, as far as they were read

    def greet(self) -> None:
        self.send(PREFACE + frame(SETTINGS))

    def request(self, content: bytes, path: str = DETECT, end: bool = True) -> int:
        """Send a call with `content` as its data; returns its stream."""
        stream, self._next = self._next, self._next + 2
        flags = END_STREAM if end else 0
        self.send(
            frame(HEADERS, END_HEADERS, stream, call(path.encode()))
            + frame(DATA, flags, stream, content)
        )
        return stream

    def call(self, path: str, *metadata: Tuple[bytes, bytes], content: bytes = b"") -> None:
        """Call and wait until the agent has ended the call, in whatever way."""
        stream, self._next = self._next, self._next + 2
        self.send(frame(HEADERS, END_HEADERS, stream, call(path.encode(), *metadata)))
        self.send(frame(DATA, END_STREAM, stream, message(content)))
        while True:
            head = exactly(self.socket, 9)
            kind, flags = head[3], head[4]
            payload = exactly(self.socket, int.from_bytes(head[:3], "big"))
            if kind in (SETTINGS, PING) and not flags & ACK:
                self.send(frame(kind, ACK, 0, payload if kind == PING else b""))
            ends = kind == RST_STREAM or (kind in (DATA, HEADERS) and flags & END_STREAM)
            if ends and int.from_bytes(head[5:], "big") == stream:
                return

    def pour(self, stream: int, size: int, sent: int) -> None:
        """Send `size` bytes of data on `stream` as its window allows; reads what comes.

        `sent`: bytes of data that were sent on this connection before.
        """
        windows = {0: 65535 - sent, stream: 65535 - sent}
        buffer = b""
        while size > 0:
            room = min(windows[0], windows[stream], 16384, size)
            if room > 0:
                self.send(frame(DATA, 0, stream, bytes(room)))
                windows[0] -= room
                windows[stream] -= room
                size -= room
                continue
            buffer += self._receive()
            buffer = self._windows(buffer, windows, stream)

    def refused_streams(self) -> List[int]:
        """Return the streams that the other end has ended, after reading what it sent."""
        with suppress(socket.timeout):
            self.settimeout(0.2)
            while True:
                self._heard += self._receive()
        while len(self._heard) >= 9:
            size = int.from_bytes(self._heard[:3], "big")
            kind, flags, number = struct.unpack("!BBI", self._heard[3:9])
            payload, self._heard = self._heard[9 : 9 + size], self._heard[9 + size :]
            if kind == RST_STREAM:
                self._refused.append(number)
            elif kind == SETTINGS and not flags & ACK:
                self._settings(payload, {number: 0}, number)
        return self._refused

    def closed_by_peer(self) -> bool:
        """Read until the other end closes; False when it doesn't within the time limit."""
        try:
            while self.socket.recv(65536):
                pass
        except socket.timeout:
            return False
        except OSError:
            return True
        return True

    def settimeout(self, seconds: float) -> None:
        self.socket.settimeout(seconds)

    def _receive(self) -> bytes:
        content = self.socket.recv(65536)
        if not content:
            raise ConnectionResetError("the agent closed the connection")
        return content

    def _windows(self, buffer: bytes, windows: Dict[int, int], stream: int) -> bytes:
        while len(buffer) >= 9:
            size = int.from_bytes(buffer[:3], "big")
            if len(buffer) < 9 + size:
                break
            kind, flags, number = struct.unpack("!BBI", buffer[3:9])
            payload, buffer = buffer[9 : 9 + size], buffer[9 + size :]
            if kind == WINDOW_UPDATE and number in windows:
                windows[number] += struct.unpack("!I", payload)[0]
            elif kind == SETTINGS and not flags & ACK:
                self._settings(payload, windows, stream)
            elif kind == PING and not flags & ACK:
                self.send(frame(PING, ACK, 0, payload))
            elif kind == RST_STREAM and number == stream:
                raise ConnectionResetError("the agent ended the call")
        return buffer

    def _settings(self, payload: bytes, windows: Dict[int, int], stream: int) -> None:
        for place in range(0, len(payload), 6):
            key, value = struct.unpack("!HI", payload[place : place + 6])
            self.settings[key] = value
            if key == 4:  # SETTINGS_INITIAL_WINDOW_SIZE
                windows[stream] += value - self._initial_window
                self._initial_window = value
        self.send(frame(SETTINGS, ACK, 0))
