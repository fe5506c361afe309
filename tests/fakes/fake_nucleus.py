"""A fake of the Greengrass nucleus's IPC server, for tests: no real nucleus can run there.

It is written from the documented wire protocol and from what was observed of, or read in the
sources of, the two nuclei: "classic" (Java), which spools what AWS IoT Core can't take now, and
"lite" (C), which doesn't, has narrow limits and lacks operations. What they do beyond that it can't
show: a release is to be tried on both.
"""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping

from typing_extensions import Literal

from tests.fakes.nucleus.configuration import Configurations
from tests.fakes.nucleus.connection import ACCEPTED, CONNECT_ACK, LITE_FRAME_BYTES, Connection
from tests.fakes.nucleus.streams import Refused, Subscription
from tests.fakes.nucleus.topics import Published, Topics
from tests.fakes.nucleus.updates import CLASSIC_ONLY, Updates

__all__ = ["LITE_FRAME_BYTES", "FakeNucleus", "Published"]


class FakeNucleus(Topics, Configurations, Updates):
    """Listens on `path` while its context is open; what it took lies in its lists, in order."""

    def __init__(self, path: Path, kind: Literal["classic", "lite"] = "lite") -> None:
        super().__init__(kind)
        self.path = path
        self.token = "0123456789ABCDEF"  # the component's; a restart of lite forgets it
        self.in_unit = True  # the component's process runs in its own systemd unit
        self.names: List[str] = []  # those taken in place of a token
        self.silent = False  # accepts connections and says nothing
        self.answering = True  # does what is asked and doesn't say so
        self.before_answering: Callable[[str], None] = lambda _operation: None
        self.states: List[str] = []
        self.refusals = 0
        self.largest_frame = 0
        self._connections: List[Connection] = []
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._thread = threading.Thread(target=self._accept)

    @property
    def environment(self) -> Dict[str, str]:
        """What a component finds in its environment."""
        return {
            "AWS_GG_NUCLEUS_DOMAIN_SOCKET_FILEPATH_FOR_COMPONENT": str(self.path),
            "SVCUID": self.token,
        }

    def __enter__(self) -> FakeNucleus:
        self._listener.bind(str(self.path))
        self._listener.listen()
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)  # ends accept()
        self._thread.join()
        self._listener.close()
        self.join_deployments()
        self.join_bursts()
        self.drop()
        for connection in self._connections:
            connection.thread.join()

    def drop(self) -> None:
        """Close the connections and forget the token, as with a restart."""
        self.token = "a new one"
        self.cut()

    def cut(self) -> None:
        """Close the connections; the token is as good as before."""
        for connection in list(self._connections):
            connection.close()

    def connections(self) -> int:
        """Count those open."""
        return sum(not connection.closed for connection in self._connections)

    def connected(self, connection: Connection, identity: Mapping[str, str]) -> bool:
        """Accept a connection, or refuse it as the kind does: classic says so, lite hangs up.

        Lite also takes the component's name from a process of its unit, and returns a token.
        """
        right = identity.get("authToken") == self.token
        named = "authToken" not in identity and self.kind == "lite" and self.in_unit
        if named and identity.get("componentName") == self.component:
            right = True
            self.names.append(self.component)
        if not self.silent and (right or self.kind == "classic"):
            connection.send(CONNECT_ACK, ACCEPTED if right else 0, 0)
        return right or self.kind == "classic"

    def asked(self, connection: Connection, stream: int, operation: str, request: Any) -> None:
        """Do what is asked, and answer."""
        try:
            with self._changed:
                answer = self._handler(operation)(request) or {}
            self.before_answering(operation)
            with self._changed:
                if operation.startswith("SubscribeTo"):
                    topic = request.get("topic") or request.get("topicName", "")
                    self.subscriptions.append(Subscription(connection, stream, operation, topic))
                if self.answering:
                    connection.event(stream, f"{operation}Response", **answer)
                self._changed.notify_all()
        except Refused as refusal:
            connection.refuse(stream, str(refusal))
            with self._changed:
                self.refusals += 1
                self._changed.notify_all()

    def _handler(self, operation: str) -> Callable[[Any], Any]:
        if self.kind == "lite" and operation in CLASSIC_ONLY:
            return _not_offered
        return getattr(self, f"_{operation}", _not_offered)

    def _UpdateState(self, request: Any) -> None:  # noqa: N802
        self.states.append(request["state"])

    def _accept(self) -> None:
        with suppress(OSError):  # the end
            while True:
                accepted, _address = self._listener.accept()
                connection = Connection(self, accepted)
                self._connections.append(connection)
                connection.thread.start()


def _not_offered(_request: Any) -> None:
    raise Refused("ServiceError")  # the connection stays usable
