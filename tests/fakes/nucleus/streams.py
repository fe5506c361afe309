"""What all operations of the fake nucleus share: its kind, its lock, who listens."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any, Callable, List, Optional, Set

from tests.fakes.nucleus.connection import Connection


class Refused(Exception):
    """The answer is an error; the text is the name of its class."""


@dataclass(frozen=True)
class Subscription:
    """A stream on which events go to a component."""

    connection: Connection
    stream: int
    operation: str
    filter: str

    def has(self, topic: str) -> bool:
        levels, wanted = topic.split("/"), self.filter.split("/")
        return len(levels) == len(wanted) and all(
            want in ("+", level) for want, level in zip(wanted, levels)
        )

    def event(self, model: str, **content: Any) -> None:
        self.connection.event(self.stream, model, **content)


class Streams:
    """The kind of nucleus, the component's name and what it may do, its subscriptions."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.component = "aws.iot.lookoutvision.EdgeAgent"
        self.permitted: Optional[Set[str]] = None  # topics and metrics; None: any
        self.subscriptions: List[Subscription] = []
        self._changed = threading.Condition()  # guards everything of the nucleus

    def until(self, condition: Callable[[], bool], within_s: float = 60.0) -> None:
        """Wait until something is so."""
        with self._changed:
            assert self._changed.wait_for(condition, within_s), "it hasn't happened in time"

    def end_subscriptions(self) -> None:
        """End every subscription by an error."""
        with self._changed:
            ended, self.subscriptions = self.subscriptions, []
        for subscription in ended:
            subscription.connection.refuse(subscription.stream, "ServiceError")

    def ended(self, connection: Connection, stream: Optional[int] = None) -> None:
        """Forget the subscription of a stream, or all of a connection."""
        with self._changed:
            self.subscriptions = [
                one for one in self.subscriptions
                if one.connection is not connection or stream not in (None, one.stream)
            ]  # fmt: skip
            self._changed.notify_all()

    def _subscribed(self, operation: str) -> List[Subscription]:
        with self._changed:
            return [one for one in self.subscriptions if one.operation == operation]

    def _permit(self, resource: str) -> None:
        if self.permitted is not None and resource not in self.permitted:
            raise Refused("UnauthorizedError")
