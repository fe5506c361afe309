"""The agent's counts as component metrics of the nucleus, under the original's CloudWatch names.

The nucleus adds up what it receives and sends it with its own telemetry; so counts are published as
increments, and figures that can't be added (inference units) not at all. Only classic accepts
them, and only of a component whose name begins with "aws." and whose accessControl allows it.
"""

from __future__ import annotations

import logging
from concurrent.futures import Future
from functools import partial
from typing import Callable, Mapping

from edge_agent.runtime.host.greengrass import Greengrass
from edge_agent.runtime.host.nucleus import NucleusBusy, NucleusLost

log = logging.getLogger(__name__)

EVERY_S = 60.0
UNITS = {
    "ProcessedImageCount": "COUNT",
    "DetectedAnomalyCount": "COUNT",
    "InvalidImageCount": "COUNT",
    "SuccessfulRequestCount": "COUNT",
    "ErrorCount": "COUNT",
    "ThrottledCount": "COUNT",
    "Time": "SECONDS",  # of all successful requests together
}


class MetricsPublisher:
    """Publishes what has been counted since the last time, once a minute."""

    def __init__(self, nucleus: Greengrass, totals: Callable[[], Mapping[str, float]]) -> None:
        """`totals` returns the counts since the start, by name."""
        self._nucleus, self._scheduler, self._totals = nucleus, nucleus.scheduler, totals
        self._published_totals: Mapping[str, float] = dict.fromkeys(UNITS, 0.0)
        self._accepted = False  # the nucleus has accepted some
        self._problem = ""

    def publish(self) -> None:
        """Publish the increments, zeros as well, and schedule the next time."""
        totals = self._totals()
        published = self._published_totals
        increments = [(name, unit, totals[name] - published[name]) for name, unit in UNITS.items()]
        answer = self._nucleus.put_metrics(increments)
        answer.add_done_callback(
            lambda done: self._scheduler.schedule(partial(self._published, done, totals))
        )

    def _published(self, answer: Future[None], totals: Mapping[str, float]) -> None:
        error = answer.exception()
        if error is None:
            self._published_totals, self._accepted, self._problem = totals, True, ""
        elif self._accepted and isinstance(error, NucleusBusy):
            self._log_problem(f"Component metrics are sent again later: {error}")
        elif not isinstance(error, NucleusLost):  # without the nucleus they add up
            lacks = "This nucleus takes none, as nucleus lite. Nothing is wrong."
            why = lacks if isinstance(error, NucleusBusy) else error
            log.info("Component metrics are only for components named aws.*: %s", why)
            return
        self._scheduler.schedule(self.publish, EVERY_S)

    def _log_problem(self, problem: str) -> None:
        """Log a problem once, not each time."""
        if problem != self._problem:
            log.info(problem)
        self._problem = problem
