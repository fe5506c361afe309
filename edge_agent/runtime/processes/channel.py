"""Messages between the agent and its child processes: JSON objects, with descriptors of files.

They pass through a socket pair with bounds between messages (SOCK_SEQPACKET), the descriptors as
SCM_RIGHTS, see unix(7). Python's own `socket.send_fds` came with 3.9.
"""

from __future__ import annotations

import array
import json
import socket
from contextlib import suppress
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

Message = Dict[str, Any]  # a JSON object

LARGEST_BYTES = 64 * 1024  # of a message; more would be cut off
MOST_DESCRIPTORS = 4
_ITEM_BYTES = array.array("i").itemsize


class Received(NamedTuple):
    """A message and what came with it; the descriptors belong to whoever received them."""

    content: Message
    descriptors: List[int]


class Channel:
    """One end. Any thread may send, one receives; when one side hangs up, the other sees it."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end

    @classmethod
    def pair(cls) -> Tuple[Channel, socket.socket]:
        """Return an end of our own and the one to hand to another process."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return cls(ours), theirs

    def fileno(self) -> int:
        """Return the descriptor, for selectors."""
        return self._end.fileno()

    def send(
        self, content: Mapping[str, object], descriptors: Sequence[int] = (), *, waits: bool = True
    ) -> None:
        """Send a message. Raises OSError when nobody is there, and when it would have to wait but
        isn't to."""  # noqa: D205, D209
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
        flags = 0 if waits else socket.MSG_DONTWAIT
        self._end.sendmsg([json.dumps(content).encode()], rights if descriptors else [], flags)

    def receive(self) -> Optional[Received]:
        """Wait for the next message; None when the other side has gone."""
        try:
            return self._receive()
        except ConnectionResetError:
            # The other side went without reading everything. This is reported once, before its last
            # messages.
            with suppress(ConnectionResetError):
                return self._receive()
            return None

    def hang_up(self) -> None:
        """Let both sides see the end at once, this one as well."""
        with suppress(OSError):
            self._end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Free the end."""
        self._end.close()

    def _receive(self) -> Optional[Received]:
        room = socket.CMSG_SPACE(MOST_DESCRIPTORS * _ITEM_BYTES)
        content, beside, _, _ = self._end.recvmsg(LARGEST_BYTES, room, socket.MSG_CMSG_CLOEXEC)
        if not content:
            return None
        descriptors = array.array("i")
        for level, kind, rights in beside:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                descriptors.frombytes(rights)
        return Received(json.loads(content), list(descriptors))
