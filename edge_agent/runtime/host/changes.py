"""Changes of the component's configuration, read once for all that come together."""

from __future__ import annotations

import logging
from concurrent.futures import Future
from functools import partial
from typing import Any, Callable, Dict, Optional

from edge_agent.runtime.host.agenda import Agenda
from edge_agent.runtime.host.greengrass import Greengrass
from edge_agent.runtime.host.nucleus import NotThere, NucleusLost

log = logging.getLogger(__name__)

SETTLED_S = 0.5  # changes come in bursts, one event a value
ANSWER_WITHIN_S = 10.0
READ_EVERY_S = 60.0  # lite sends no event of a value that a deployment's reset removes
RETRY_S = 5.0  # what was refused or has ended is asked for again
NO_ANSWER = (
    f"no answer within {ANSWER_WITHIN_S:g} s; nucleus lite sends none of over 10,000 bytes. "
    "Has the configuration grown so large?"
)


class Changes:
    """Hands over each new configuration as a whole; the methods run on the agenda's thread.

    Events only say that something has changed, and overtake each other: what counts is a reading
    that began after the last of them. There is one reading at a time, so that none is overtaken;
    the next one comes after a while without any event, too.
    """

    def __init__(
        self,
        nucleus: Greengrass,
        agenda: Agenda,
        latest: Dict[str, Any],
        take: Callable[[Dict[str, Any]], None],
    ) -> None:
        """`latest` is known already; `take` gets what differs from the one before."""
        self._nucleus, self._agenda = nucleus, agenda
        self._latest, self._take = latest, take
        self._again = False  # something has changed since the reading began
        self._busy = False  # from the first event until it is read
        self._awaited: Optional[Future[Dict[str, Any]]] = None
        self._trouble = ""

    def follow(self) -> None:
        """Begin to listen, and read what has changed until now, and again and again."""
        self._listen()
        self._agenda.plan(self._look, READ_EVERY_S)

    def _look(self) -> None:
        self._changed()
        self._agenda.plan(self._look, READ_EVERY_S)

    def _listen(self) -> None:
        asked = self._nucleus.follow_configuration(
            lambda: self._agenda.plan(self._changed),
            lambda: self._agenda.plan(self._listen, RETRY_S),
        )
        asked.add_done_callback(lambda asked: self._agenda.plan(partial(self._followed, asked)))

    def _followed(self, asked: Future[None]) -> None:
        error = asked.exception()
        if error is None:
            self._trouble = ""
            self._changed()
        else:
            self._complain(f"No change of the configuration is heard of at once: {error}", error)

    def _changed(self) -> None:
        self._again = True
        if not self._busy:
            self._busy = True
            self._agenda.plan(self._read, SETTLED_S)

    def _read(self) -> None:
        self._again = False
        answer = self._awaited = self._nucleus.get_configuration()
        answer.add_done_callback(lambda answer: self._agenda.plan(partial(self._done, answer)))
        self._agenda.plan(partial(self._done, answer), ANSWER_WITHIN_S)

    def _done(self, answer: Future[Dict[str, Any]]) -> None:
        """Use the answer, or give it up; whichever comes first."""
        if answer is not self._awaited:
            return
        self._awaited = None
        error = answer.exception() if answer.done() else TimeoutError(NO_ANSWER)
        if error is not None and not isinstance(error, NotThere):
            self._complain(f"The configuration can't be read: {error}", error)
            self._agenda.plan(self._read, RETRY_S)
            return
        self._busy = False
        self._hand_over({} if error else answer.result())
        if self._again:
            self._changed()

    def _hand_over(self, configuration: Dict[str, Any]) -> None:
        if configuration != self._latest:
            self._latest = configuration
            self._take(configuration)

    def _complain(self, trouble: str, error: BaseException) -> None:
        """Log a trouble when it begins, not each time; a lost connection others tell."""
        if trouble != self._trouble and not isinstance(error, NucleusLost):
            log.warning(trouble)
        self._trouble = trouble
