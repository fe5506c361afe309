"""Commands through the Greengrass nucleus: keeps a subscription, publishes the answers."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import Future
from typing import Callable, Optional

from edge_agent.runtime.host.greengrass import Greengrass
from edge_agent.runtime.host.nucleus import NucleusLost
from edge_agent.runtime.results.command_queue import Command, CommandQueue

log = logging.getLogger(__name__)

RETRY_S = 5.0  # a subscription refused or ended is asked for again
ANSWER_WITHIN_S = 15.0  # of the nucleus


class Commands:
    """What comes on `topic`/+ goes to `answer`, what that returns to `response_topic`."""

    def __init__(
        self,
        nucleus: Greengrass,
        topic: str,
        response_topic: str,
        answer: Callable[[str, bytes], bytes],
    ) -> None:
        self._nucleus, self._answer = nucleus, answer
        self._filter, self._response_topic = f"{topic}/+", response_topic
        self._lock = threading.Lock()
        self._queue: Optional[CommandQueue] = None  # None: not started, or stopped
        self._retry: Optional[threading.Timer] = None
        self._trouble = ""

    def start(self) -> None:
        """Begin to subscribe and return at once."""
        with self._lock:
            self._queue = CommandQueue(self._answer, self._publish)
            self._queue.start()
        self._nucleus.connect().add_done_callback(lambda _connected: self._subscribe())

    def stop(self, within_s: float) -> None:
        """End; a command that takes longer to answer is left to itself."""
        with self._lock:
            waiting, self._queue = self._queue, None
            if self._retry:
                self._retry.cancel()
        if waiting:
            waiting.stop(within_s)

    def _subscribe(self) -> None:
        asked = self._nucleus.subscribe(self._filter, self._arrived, self._ended)
        asked.add_done_callback(self._subscribed)

    def _subscribed(self, asked: Future[None]) -> None:
        """Log a trouble when it begins, not each time; a lost connection others tell."""
        error = asked.exception()
        trouble = "" if error is None else f"No commands can come: {error}"
        if trouble and trouble != self._trouble and not isinstance(error, NucleusLost):
            log.warning(trouble)
        self._trouble = trouble

    def _ended(self) -> None:
        """Ask again later: the nucleus has refused or ended the subscription, or is lost."""
        with self._lock:
            if self._queue:
                self._retry = threading.Timer(RETRY_S, self._subscribe)
                self._retry.daemon = True
                self._retry.start()

    def _arrived(self, topic: str, payload: bytes) -> None:
        with self._lock:
            if self._queue:
                self._queue.offer(Command(topic.rpartition("/")[2], payload))

    def _publish(self, command: Command, answer: bytes) -> None:
        topic = f"{self._response_topic}/{command.requester}"
        self._nucleus.publish(topic, answer, qos=1).result(ANSWER_WITHIN_S)
