"""Received commands, answered one after another on a thread of their own."""

from __future__ import annotations

import json
import logging
import queue
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Callable, Optional

from edge_agent.runtime.results import topics

logger = logging.getLogger(__name__)

CLOCK = time.CLOCK_BOOTTIME  # monotonic, and goes on while a machine is suspended
LENGTH = 16  # commands that may wait; more are dropped
LARGEST_BYTES = 4500  # of a command


@dataclass(frozen=True)
class Command:
    """A request; `correlation` is the requester's own data, sent back with the answer.

    `expires_after_s` is what MQTT 5 leaves of the message's life, from `arrived` on; that a machine
    was suspended meanwhile (CLOCK_BOOTTIME) makes a command older.
    """

    requester: str
    payload: bytes
    correlation: Optional[bytes] = None
    expires_after_s: Optional[float] = None
    arrived: float = field(default_factory=partial(time.clock_gettime, CLOCK), compare=False)

    @property
    def has_expired(self) -> bool:
        """Whether it has waited for longer than its sender allows."""
        if self.expires_after_s is None:
            return False
        return time.clock_gettime(CLOCK) - self.arrived > self.expires_after_s


class CommandQueue:
    """Takes commands without waiting; `publish` is called with each command and its answer."""

    def __init__(
        self, answer: Callable[[str, bytes], bytes], publish: Callable[[Command, bytes], None]
    ):
        self._answer, self._publish = answer, publish
        self._waiting: queue.Queue[Optional[Command]] = queue.Queue(LENGTH)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._work, name="commands", daemon=True)

    def start(self) -> None:
        """Start to answer."""
        self._thread.start()

    def offer(self, command: Command) -> None:
        """Queue `command`; drop it with a line in the log when the queue is full.

        A requester whose name can't be part of a topic is ignored, too.
        """
        if not topics.is_requester(command.requester):
            logger.warning(
                "A command was dropped: the requester %.128r can't be part of a topic.",
                command.requester,
            )
            return
        try:
            self._waiting.put_nowait(command)
        except queue.Full:
            logger.warning(
                "A command of %r was dropped: %d commands wait already.", command.requester, LENGTH
            )

    def stop(self, within_s: float) -> None:
        """End after the command being answered; those that wait are dropped."""
        self._stopping.set()
        with suppress(queue.Full):
            self._waiting.put_nowait(None)
        self._thread.join(within_s)

    def _work(self) -> None:
        while True:
            command = self._waiting.get()
            if command is None or self._stopping.is_set():
                return
            try:
                self._publish(command, self._reply(command))
            except Exception as error:
                logger.warning("The answer to %r couldn't be sent: %s", command.requester, error)

    def _reply(self, command: Command) -> bytes:
        size, sentence = len(command.payload), ""
        if size > LARGEST_BYTES:
            sentence = f"The command has {size} bytes; at most {LARGEST_BYTES} are allowed."
        elif command.has_expired:
            sentence = "The command expired while it waited. It was not carried out."
        if sentence:
            return json.dumps({"error": sentence}).encode()
        return self._answer(command.requester, command.payload)
