"""Results and commands through the Greengrass nucleus: to AWS IoT Core and to local components.

The nucleus doesn't tell when it is offline; a message that it can't take is tried again later. Its
connection is shared and belongs to `runtime.host.greengrass`: nothing here connects anew.
"""

from __future__ import annotations

import math
import threading
import time
from concurrent.futures import Future
from functools import partial
from typing import Callable, Dict, Optional, Type

from edge_agent.config import GreengrassSettings
from edge_agent.runtime.host.greengrass import Greengrass
from edge_agent.runtime.host.nucleus import (
    NotAccepted,
    NotAuthorized,
    NotThere,
    NucleusBusy,
    NucleusLost,
)
from edge_agent.runtime.results import topics
from edge_agent.runtime.results.greengrass_commands import Commands
from edge_agent.runtime.results.sink import (
    Message,
    MessageRefused,
    MessageRejected,
    NotAnswered,
    SinkUnavailable,
)

ANSWER_WITHIN_S = 15.0  # of the nucleus; noticed at most as late again

BECOMES: Dict[Type[BaseException], Type[Exception]] = {
    NucleusBusy: SinkUnavailable,
    NucleusLost: SinkUnavailable,
    NotAuthorized: MessageRefused,
    NotAccepted: MessageRejected,
    NotThere: MessageRejected,
}


class NucleusSink:
    """Carries messages by `publish`, a future of the nucleus each."""

    name = ""
    window = 4
    lane_window = 1  # after a ServiceError for one message the nucleus may take a later one

    def __init__(
        self, template: str, thing: str, nucleus: Greengrass,
        publish: Callable[[str, bytes], Future[None]],
    ) -> None:  # fmt: skip
        self.trouble = ""  # the latest sentence; "" when the last message has passed
        self._template, self._thing = template, thing
        self._nucleus, self._publish = nucleus, publish
        self._on_ready: Callable[[], None] = lambda: None
        self._lock = threading.Lock()
        self._on_way: Dict[Future[None], float] = {}  # since when, monotonic seconds
        self._watch: Optional[threading.Timer] = None  # runs while something is on its way

    def start(self, on_ready: Callable[[], None]) -> None:
        """See Sink; `on_ready` is called at once when the connection is there already."""
        self._on_ready = on_ready
        self._nucleus.connect().add_done_callback(self._connected)

    def send(self, message: Message) -> Future[None]:
        """See Sink."""
        topic = message.topic(self._template, self._thing)
        why = topics.wrong(topic, at_aws=False)  # the nucleus's own limits are known where it is
        if why:
            raise MessageRejected(f"A result can't be published: {why}.")
        published = self._publish(topic, message.body)
        error = published.exception() if published.done() else None
        if isinstance(error, NucleusLost):
            raise self._translated(error)  # at once: it wasn't tried
        sent: Future[None] = Future()
        sent.set_running_or_notify_cancel()
        with self._lock:
            self._on_way[sent] = time.monotonic()
            self._keep_watch()
        published.add_done_callback(partial(self._settle, sent))
        return sent

    def reset(self) -> None:
        """Give up what is on its way and be ready again.

        The connection stays: it is local and shared, a dead one says so; what doesn't answer is
        behind it.
        """
        self._give_up("The nucleus was given up: it didn't answer.")
        self._nucleus.connect().add_done_callback(self._connected)

    def stop(self, within_s: float) -> None:
        """See Sink."""
        self._give_up("The agent is stopping.")
        with self._lock:
            if self._watch:
                self._watch.cancel()

    def _connected(self, connected: Future[None]) -> None:
        error = connected.exception()
        if error is None:
            self._on_ready()
        else:
            self.trouble = str(error)

    def _settle(self, sent: Future[None], published: Future[None]) -> None:
        with self._lock:
            if self._on_way.pop(sent, None) is None:
                return  # given up
        error = published.exception()
        if error:
            sent.set_exception(self._translated(error))
        else:
            self.trouble = ""
            sent.set_result(None)

    def _translated(self, error: BaseException) -> Exception:
        kept = " The message is kept and tried again." if isinstance(error, NucleusBusy) else ""
        self.trouble = f"{error}{kept}"
        return BECOMES[type(error)](self.trouble)

    def _keep_watch(self) -> None:
        if self._on_way and not self._watch:
            self._watch = threading.Timer(ANSWER_WITHIN_S, self._look)
            self._watch.daemon = True
            self._watch.start()

    def _look(self) -> None:
        late = time.monotonic() - ANSWER_WITHIN_S
        self._give_up(f"The nucleus hasn't answered within {ANSWER_WITHIN_S:g} s.", late)
        with self._lock:
            self._watch = None
            self._keep_watch()

    def _give_up(self, sentence: str, sent_before: float = math.inf) -> None:
        with self._lock:
            given_up = [sent for sent, since in self._on_way.items() if since <= sent_before]
            for sent in given_up:
                del self._on_way[sent]
        for sent in given_up:
            self.trouble = sentence
            sent.set_exception(NotAnswered(sentence))


class IotCoreSink(NucleusSink):
    """To AWS IoT Core; brings commands as well (see CommandSource)."""

    name = "greengrass"

    def __init__(self, settings: GreengrassSettings, thing: str, nucleus: Greengrass) -> None:
        publish = partial(nucleus.publish, qos=settings.qos)
        super().__init__(settings.topic or "", thing, nucleus, publish)
        self._commands: Optional[Commands] = None

    def serve_commands(
        self, topic: str, response_topic: str, answer: Callable[[str, bytes], bytes]
    ) -> None:
        """See CommandSource."""
        self._commands = Commands(
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
    """To other components on the device, while they listen: nobody keeps it for them."""

    name = "greengrass-local"

    def __init__(self, settings: GreengrassSettings, thing: str, nucleus: Greengrass) -> None:
        super().__init__(settings.local_topic or "", thing, nucleus, nucleus.publish_locally)
