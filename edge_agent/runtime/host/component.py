"""The agent as a Greengrass component, from its start to the loss of the nucleus.

Owns the one connection to the nucleus and a scheduler with a thread of its own: callbacks on the
connection's thread only schedule tasks there.
"""

from __future__ import annotations

import logging
import threading
import time
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotDone
from functools import partial
from pathlib import Path
from typing import Callable, Mapping, Sequence

from edge_agent import config
from edge_agent.config import Settings, UpdatesSettings
from edge_agent.errors import InvalidConfiguration
from edge_agent.runtime.host.configuration import (
    ANSWER_WITHIN_S,
    NO_ANSWER,
    ConfigurationWatcher,
    settings_tree,
)
from edge_agent.runtime.host.greengrass import SOCKET, Configuration, Greengrass, available
from edge_agent.runtime.host.metrics_publisher import MetricsPublisher
from edge_agent.runtime.host.nucleus import NotFound, NucleusBusy, NucleusLost
from edge_agent.runtime.host.scheduler import Scheduler
from edge_agent.runtime.host.updates import UpdateDeferrer

log = logging.getLogger(__name__)

READ_AGAIN_S = 0.5


class GreengrassComponent:
    """One component; `connect`, `serve` and `close` are called by one thread, once each."""

    def __init__(
        self, work: Path, environment: Mapping[str, str], assignments: Sequence[str]
    ) -> None:
        """`environment` and `assignments` win over the configuration, see `config.build`.

        Raises InvalidConfiguration outside Greengrass.
        """
        if not available(environment):
            raise InvalidConfiguration(
                f"--greengrass: no Greengrass nucleus started this process ({SOCKET} isn't set). "
                "Deploy the agent as a component, or serve without --greengrass."
            )
        self.nucleus = Greengrass(environment, self._lose)
        self._work, self._environment, self._assignments = work, environment, assignments
        self._scheduler = Scheduler("component")
        self._lost_lock = threading.Lock()  # of the next two
        self._why_lost = ""
        self._on_lost: Callable[[str], None] = lambda _why: None
        self._configuration: Configuration = {}
        self._updates = UpdatesSettings()

    def connect(self) -> Settings:
        """Connect, read the configuration and return the settings; waits for at most 30 s.

        Raises NucleusLost, InvalidConfiguration.
        """
        self.nucleus.connect().result()  # which has a limit
        self._configuration = self._read()
        return self._settings(self._configuration)

    def when_lost(self, act: Callable[[str], None]) -> None:
        """Call `act` once, on any thread, with the reason, when the nucleus is or was lost."""
        with self._lost_lock:
            self._on_lost, why = act, self._why_lost
        if why:
            act(why)

    def serve(
        self,
        use: Callable[[Settings], None],
        quiet_for_s: Callable[[], float],
        totals: Callable[[], Mapping[str, float]],
    ) -> None:
        """Report to the nucleus that the agent runs, and handle its events from now on.

        `use` receives the settings of each new valid configuration, on the scheduler's thread; it
        must not wait. For `quiet_for_s` see UpdateDeferrer, for `totals` MetricsPublisher.
        """

        def on_change(configuration: Configuration) -> None:
            try:
                settings = self._settings(configuration)
            except InvalidConfiguration as error:
                log.error("The settings stay as they were: %s", error)  # noqa: TRY400
            else:
                use(settings)

        report = self.nucleus.update_state("RUNNING")
        report.add_done_callback(
            lambda report: self._scheduler.schedule(partial(_log_failure, report))
        )
        changes = ConfigurationWatcher(
            self.nucleus, self._scheduler, self._configuration, on_change
        )
        updates = UpdateDeferrer(self.nucleus, self._scheduler, lambda: self._updates, quiet_for_s)
        counts = MetricsPublisher(self.nucleus, self._scheduler, totals)
        for begin in (changes.start, updates.start, counts.publish):
            self._scheduler.schedule(begin)

    def close(self, within_s: float) -> None:
        """Stop the scheduler and disconnect."""
        self._scheduler.close(within_s)
        self.nucleus.close(within_s)

    def _lose(self, why: str) -> None:
        with self._lost_lock:
            self._why_lost, act = why, self._on_lost
        act(why)

    def _read(self) -> Configuration:
        """Return the configuration; while the nucleus is busy, try again."""
        end = time.monotonic() + ANSWER_WITHIN_S
        while True:
            try:
                return self.nucleus.get_configuration().result(ANSWER_WITHIN_S)
            except NotFound:
                return {}
            except NotDone:
                raise NucleusLost(f"The configuration can't be read: {NO_ANSWER}") from None
            except NucleusBusy:
                if time.monotonic() > end:
                    raise
            time.sleep(READ_AGAIN_S)

    def _settings(self, configuration: Mapping[str, object]) -> Settings:
        tree = settings_tree(configuration, self._work)
        settings = config.build(tree, self._environment, self._assignments)
        self._updates = settings.updates
        return settings


def _log_failure(report: Future[None]) -> None:
    error = report.exception()
    if error is not None and not isinstance(error, NucleusLost):
        log.warning("The nucleus didn't accept the state RUNNING: %s", error)
