"""What the log says while results wait for a sink: a warning at the start, a line at the end.

An outage ends when nothing waits any more, or when no message has failed for a while: a nucleus
that is back takes some messages and refuses the next ones, many times until all have passed.
"""

from __future__ import annotations

import logging
from typing import Callable, Set

log = logging.getLogger(__name__)

CALM_S = 10.0  # without a failure, while messages arrive


class DeliveryOutage:
    """Why the messages of one sink wait, and since when; used by one thread."""

    def __init__(self, sink: str, clock: Callable[[], float]) -> None:
        self.reason = ""  # a sentence; "": they don't wait
        self._sink, self._clock = sink, clock
        self._logged: Set[str] = set()  # each reason once in an outage
        self._began = self._failed_at = 0.0
        self._delivered_before = 0

    def failed(self, sentence: str, delivered: int, is_logged: bool) -> None:
        """Note a failure, after so many `delivered` messages; log it unless it `is_logged`."""
        self._failed_at = self._clock()
        if not self.reason:
            self._began, self._delivered_before = self._failed_at, delivered
            self._logged.clear()
        self.reason = sentence
        if sentence not in self._logged and not is_logged:
            log.warning("Results wait for %s: %s", self._sink, sentence)
        self._logged.add(sentence)

    def arrived(self, delivered: int, waiting: int) -> None:
        """End the outage, if it is over: no message is held back now."""
        now = self._clock()
        if not self.reason or (waiting and now - self._failed_at < CALM_S):
            return
        self.reason = ""
        log.info(
            "Results are delivered to %s again, after %.0f s; %d were delivered since it began, "
            "%d wait.",
            self._sink, now - self._began, delivered - self._delivered_before, waiting,
        )  # fmt: skip
