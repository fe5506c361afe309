"""What the outbox delivers, and the contract of a sink, which sends it off the device."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass
from typing import Callable, Protocol

from edge_agent.runtime.results import topics


class SinkUnavailable(Exception):
    """Nothing can be sent now (not connected, no answer); everything waits and is sent later.

    The message says what is wrong and what to do.
    """


class SinkBusy(SinkUnavailable):
    """The other side answers that it takes nothing now, whatever the message."""


class NotAnswered(SinkUnavailable):
    """A message was not acknowledged in time: the connection may be dead."""


class MessageRefused(Exception):
    """The topic isn't permitted at present; the model's messages wait."""


class MessageRejected(Exception):
    """The message can never be sent as it is (size, topic, format)."""


@dataclass(frozen=True)
class Message:
    """One event to send. `kind`: result, summary or alarm; `verdict`: normal or anomaly."""

    id: str
    model: str
    kind: str
    verdict: str
    body: bytes  # one JSON object, UTF-8, without a line break; at most 7,000 bytes

    def topic(self, template: str, thing: str) -> str:
        """Fill in a topic template of the settings; events about no model are of "agent"."""
        values = {"model": self.model or "agent", "kind": self.kind, "verdict": self.verdict}
        return topics.fill(template, {"thing": thing, **values})


class Sink(Protocol):
    """Sends messages; used by one thread, which waits for the futures itself.

    `window` messages may be in flight at once, `lane_window` of one model; 1 where a later
    message might overtake an earlier one that fails.
    """

    name: str
    window: int
    window_per_model: int

    @property
    def problem(self) -> str:
        """Why messages can't be sent, a sentence, as far as the sink knows; "": they can."""

    def start(self, on_ready: Callable[[], None]) -> None:
        """Start to connect and return at once.

        `on_ready` is called, on any thread, when messages can be sent, again after each reconnect.
        """

    def send(self, message: Message) -> Future[None]:
        """Send the message and return at once; the future ends when it has arrived.

        It ends in any case, within a limit of the sink's own. Raises, at once or through the
        future, SinkUnavailable, MessageRefused, MessageRejected.
        """

    def reset(self) -> None:
        """Reconnect, if the connection is the sink's own: acknowledgements didn't come in time."""

    def stop(self, within_s: float) -> None:
        """Disconnect; what is in flight may fail."""


class CommandSource(Protocol):
    """A connection that receives commands as well."""

    def serve_commands(
        self, topic: str, response_topic: str, answer: Callable[[str, bytes], bytes]
    ) -> None:
        """Subscribe to `topic`/+ whenever connected; call before `start`.

        The last level of a message's topic is its requester. `answer(requester, payload)` is called
        on a thread of its own, one command after another, and never raises; what it returns is
        published on `response_topic`/REQUESTER.
        """
