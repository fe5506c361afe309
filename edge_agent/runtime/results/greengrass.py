"""Results and commands through the Greengrass nucleus: to AWS IoT Core and to local components.

The nucleus doesn't report when it is offline; a message that it can't accept is sent again later.
Its connection is shared and owned by `runtime.host.greengrass`, which makes a lost one again.
"""

from __future__ import annotations

import logging
import math
import threading
from concurrent.futures import Future
from functools import partial
from typing import Callable, Dict, Optional, Type

from edge_agent.config import GreengrassSettings
from edge_agent.runtime.host.greengrass import Greengrass
from edge_agent.runtime.host.nucleus import (
    NotAccepted,
    NotAuthorized,
    NotFound,
    NucleusBusy,
    NucleusLost,
)
from edge_agent.runtime.host.subscription import Subscription
from edge_agent.runtime.results import topics
from edge_agent.runtime.results.command_queue import Command, CommandQueue
from edge_agent.runtime.results.sink import (
    Message,
    MessageRefused,
    MessageRejected,
    NotAnswered,
    SinkBusy,
    SinkUnavailable,
)
from edge_agent.runtime.system import stalls

log = logging.getLogger(__name__)

ANSWER_WITHIN_S = 15.0  # of the nucleus; checked every so often

BECOMES: Dict[Type[BaseException], Type[Exception]] = {
    NucleusBusy: SinkBusy,
    NucleusLost: SinkUnavailable,
    NotAuthorized: MessageRefused,
    NotAccepted: MessageRejected,
    NotFound: MessageRejected,
}


class NucleusSink:
    """Sends messages with `publish`, which returns a future of the nucleus."""

    name = ""
    window = 4
    window_per_model = 1  # after an error for one message the nucleus may accept a later one

    def __init__(
        self, template: str, thing: str, nucleus: Greengrass,
        publish: Callable[[str, bytes], Future[None]],
    ) -> None:  # fmt: skip
        self._problem = ""  # the latest sentence; "" when the last message has arrived
        self._template, self._thing = template, thing
        self._nucleus, self._publish = nucleus, publish
        self._on_ready: Callable[[], None] = lambda: None
        self._lock = threading.Lock()
        self._in_flight: Dict[Future[None], float] = {}  # since when, of stalls.ran_s(0)
        self._watchdog: Optional[threading.Timer] = None  # runs while something is in flight

    @property
    def problem(self) -> str:
        """See Sink."""
        return self._nucleus.problem or self._problem

    def start(self, on_ready: Callable[[], None]) -> None:
        """See Sink; `on_ready` is called at once when connected already."""
        self._on_ready = on_ready
        self._nucleus.when_connected(on_ready)
        self._nucleus.connect()

    def send(self, message: Message) -> Future[None]:
        """See Sink."""
        topic = message.topic(self._template, self._thing)
        why = topics.topic_error(topic, at_aws=False)  # `host.nucleus` checks its own limits
        if why:
            raise MessageRejected(f"A result can't be published: {why}.")
        published = self._publish(topic, message.body)
        error = published.exception() if published.done() else None
        if isinstance(error, NucleusLost):
            raise self._translate(error)  # at once: it wasn't sent
        sent: Future[None] = Future()
        sent.set_running_or_notify_cancel()
        with self._lock:
            self._in_flight[sent] = stalls.ran_s(0.0)
            self._start_watchdog()
        published.add_done_callback(partial(self._on_published, sent))
        return sent

    def reset(self) -> None:
        """Give up what is in flight and be ready again.

        The connection stays: it is local and shared, and a dead one is made again by its owner;
        what doesn't answer is behind it.
        """
        self._give_up("The nucleus didn't answer.")
        if not self._nucleus.problem:
            self._on_ready()

    def stop(self, within_s: float) -> None:
        """See Sink."""
        self._give_up("The agent is stopping.")
        with self._lock:
            if self._watchdog:
                self._watchdog.cancel()

    def _on_published(self, sent: Future[None], published: Future[None]) -> None:
        with self._lock:
            if self._in_flight.pop(sent, None) is None:
                return  # given up before
        error = published.exception()
        if error:
            sent.set_exception(self._translate(error))
        else:
            self._problem = ""
            sent.set_result(None)

    def _translate(self, error: BaseException) -> Exception:
        advice = " The message is sent again later." if isinstance(error, NucleusBusy) else ""
        self._problem = f"{error}{advice}"
        return BECOMES[type(error)](self._problem)

    def _start_watchdog(self) -> None:
        if self._in_flight and not self._watchdog:
            self._watchdog = threading.Timer(ANSWER_WITHIN_S, self._check_answers)
            self._watchdog.daemon = True
            self._watchdog.start()

    def _check_answers(self) -> None:
        late = stalls.ran_s(0.0) - ANSWER_WITHIN_S
        self._give_up(f"The nucleus hasn't answered within {ANSWER_WITHIN_S:g} s.", late)
        with self._lock:
            self._watchdog = None
            self._start_watchdog()

    def _give_up(self, sentence: str, sent_before: float = math.inf) -> None:
        with self._lock:
            given_up = [sent for sent, since in self._in_flight.items() if since <= sent_before]
            for sent in given_up:
                del self._in_flight[sent]
        for sent in given_up:
            self._problem = sentence
            sent.set_exception(NotAnswered(sentence))


class IotCoreSink(NucleusSink):
    """To AWS IoT Core; receives commands as well (see CommandSource)."""

    name = "greengrass"

    def __init__(self, settings: GreengrassSettings, thing: str, nucleus: Greengrass) -> None:
        publish = partial(nucleus.publish, qos=settings.qos)
        super().__init__(settings.topic or "", thing, nucleus, publish)
        self._commands: Optional[GreengrassCommands] = None

    def serve_commands(
        self, topic: str, response_topic: str, answer: Callable[[str, bytes], bytes]
    ) -> None:
        """See CommandSource."""
        self._commands = GreengrassCommands(
            self._nucleus, self._of_thing(topic), self._of_thing(response_topic), answer
        )

    def start(self, on_ready: Callable[[], None]) -> None:
        """See Sink."""
        super().start(on_ready)
        if self._commands:
            self._commands.start()

    def stop(self, within_s: float) -> None:
        """See Sink."""
        super().stop(within_s)
        if self._commands:
            self._commands.stop(within_s)

    def _of_thing(self, topic: str) -> str:
        return topic.replace("{thing}", self._thing)


class LocalSink(NucleusSink):
    """To other components on the device, if they listen: nothing is stored for them."""

    name = "greengrass-local"

    def __init__(self, settings: GreengrassSettings, thing: str, nucleus: Greengrass) -> None:
        super().__init__(settings.local_topic or "", thing, nucleus, nucleus.publish_locally)


class GreengrassCommands:
    """Owns the subscription to `topic`/+; the results of `answer` go to `response_topic`."""

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
        self._problem = ""
        self._subscription = Subscription(
            nucleus,
            lambda on_end: nucleus.subscribe(self._filter, self._arrived, on_end),
            self._subscribed,
        )

    def start(self) -> None:
        """Start to subscribe and return at once."""
        with self._lock:
            self._queue = CommandQueue(self._answer, self._publish)
            self._queue.start()
        self._subscription.start()

    def stop(self, within_s: float) -> None:
        """Stop; a command that takes longer to answer isn't waited for."""
        with self._lock:
            waiting, self._queue = self._queue, None
        self._subscription.stop()
        if waiting:
            waiting.stop(within_s)

    def _subscribed(self, error: Optional[BaseException]) -> bool:
        """Log a problem once, not each time."""
        problem = "" if error is None else f"No commands can arrive: {error}"
        if problem and problem != self._problem:
            log.warning(problem)
        elif self._problem and not problem:
            log.info("Commands can arrive again.")
        self._problem = problem
        return True

    def _arrived(self, topic: str, payload: bytes) -> None:
        with self._lock:
            if self._queue:
                self._queue.offer(Command(topic.rpartition("/")[2], payload))

    def _publish(self, command: Command, answer: bytes) -> None:
        topic = f"{self._response_topic}/{command.requester}"
        self._nucleus.publish(topic, answer, qos=1).result(ANSWER_WITHIN_S)
