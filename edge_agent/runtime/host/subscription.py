"""A subscription that is made again whenever the nucleus has restarted, refused or ended it."""

from __future__ import annotations

from concurrent.futures import Future
from functools import partial
from typing import Callable, Optional

from edge_agent.runtime.host.greengrass import Greengrass
from edge_agent.runtime.host.nucleus import NucleusLost

RETRY_S = 5.0  # until one that was refused or ended is tried again


class Subscription:
    """Owns the tries; everything is called on the nucleus's scheduler."""

    def __init__(
        self,
        nucleus: Greengrass,
        subscribe: Callable[[Callable[[], None]], Future[None]],
        on_answer: Callable[[Optional[BaseException]], bool],
    ) -> None:
        """`subscribe(on_end)` makes it.

        `on_answer` gets the error of each try, None when it succeeded; it returns whether to try
        again while this connection lasts. A lost connection is no answer.
        """
        self._nucleus, self._subscribe, self._on_answer = nucleus, subscribe, on_answer
        self._tries = 0  # only the end of the latest one counts
        self._wanted = True

    def start(self) -> None:
        """Subscribe now, or when there is a connection."""
        self._nucleus.when_connected(lambda: self._nucleus.scheduler.schedule(self._try))

    def stop(self) -> None:
        """Don't subscribe again."""
        self._wanted = False

    def _try(self) -> None:
        if not self._wanted:
            return
        self._tries += 1
        schedule = self._nucleus.scheduler.schedule
        ended = partial(self._ended, self._tries)
        answer = self._subscribe(lambda: schedule(ended, RETRY_S))
        answer.add_done_callback(lambda answer: schedule(partial(self._answered, answer)))

    def _answered(self, answer: Future[None]) -> None:
        error = answer.exception()
        if not isinstance(error, NucleusLost) and not self._on_answer(error):
            self._tries += 1  # its end doesn't count any more

    def _ended(self, attempt: int) -> None:
        if attempt == self._tries:
            self._try()
