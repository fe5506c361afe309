"""The agent as a Greengrass component: its settings, and what it and the nucleus tell each other.

Owns the one connection to the nucleus. The agent outlives its loss, and a configuration that can't
be used: it then has the settings of its last good start.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotDone
from functools import partial
from pathlib import Path
from typing import Callable, Dict, Mapping, NamedTuple, Optional, Sequence

from edge_agent import config
from edge_agent.config import Settings, UpdatesSettings
from edge_agent.errors import InvalidConfiguration
from edge_agent.runtime.host.configuration import (
    ANSWER_WITHIN_S,
    NO_ANSWER,
    ConfigurationWatcher,
    settings_tree,
)
from edge_agent.runtime.host.greengrass import SOCKET, Greengrass, available
from edge_agent.runtime.host.last_good import LastGood
from edge_agent.runtime.host.metrics_publisher import MetricsPublisher
from edge_agent.runtime.host.nucleus import NotFound, NucleusBusy, NucleusError, NucleusLost
from edge_agent.runtime.host.session import Configuration
from edge_agent.runtime.host.takeover import take_over
from edge_agent.runtime.host.updates import UpdateDeferrer

log = logging.getLogger(__name__)

READ_AGAIN_S = 0.5
START_WITHIN_S = 5.0  # then the last good settings do


class _Used(NamedTuple):
    """A configuration of the nucleus, and what was made of it."""

    configuration: Configuration
    settings: Settings


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
        self.nucleus = Greengrass(environment, self._lose, work.name)
        self._work, self._environment, self._assignments = work, environment, assignments
        self._last_good = LastGood(work)
        self._lost_lock = threading.Lock()  # of the next two
        self._why_lost = ""
        self._on_lost: Callable[[str], None] = lambda _why: None
        self._configuration: Configuration = {}  # the nucleus's
        self._used: Optional[_Used] = None  # the latest; replaced as a whole
        self._settings_problem = ""
        self._lock: Optional[int] = None  # of the work folder
        self._updates = UpdatesSettings()

    @property
    def problems(self) -> Dict[str, str]:
        """What is wrong, a sentence for each part; "": nothing."""
        return {"nucleus": self.nucleus.problem, "settings": self._settings_problem}

    def connect(self) -> Settings:
        """Connect, read the configuration and return the settings; end an agent left behind.

        A nucleus that is away is waited for, but not long where there are settings of a last good
        start; those also replace wrong ones. Raises InvalidConfiguration, NucleusError.
        """
        good = self._last_good.configuration
        try:
            self._configuration = self._read(math.inf if good is None else START_WITHIN_S)
        except NucleusError as error:
            if good is None:
                raise
            log.warning("The agent starts with the settings of its last good start. %s", error)
            self._configuration = good
        try:
            settings = self._settings(self._configuration)
        except InvalidConfiguration as error:
            settings = self.fall_back(error)
        self._lock = take_over(self._work)
        return settings

    def check(self) -> Settings:
        """Read the configuration and return the settings, to be checked.

        Raises InvalidConfiguration, and NucleusError when it can't be read.
        """
        return self._settings(self._read(START_WITHIN_S))

    def fall_back(self, error: InvalidConfiguration) -> Settings:
        """Return the settings of the last good start; raises `error` when those are used already.

        Call it when the agent can't start with the others.
        """
        good = self._last_good.configuration
        if good is None or (self._used and good == self._used.configuration):
            raise error
        settings = self._settings(good)
        self._settings_problem = (
            f"The agent runs with the settings of its last good start: {error} "
            "Correct this setting in a deployment."
        )
        log.error("%s", self._settings_problem)
        return settings

    def when_lost(self, act: Callable[[str], None]) -> None:
        """Call `act` once, on any thread, with the reason, when the nucleus refuses the component.

        The process should then end, to be started with a new token.
        """
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

        What the agent runs with is good, and kept for the next start. `use` receives the settings
        of each new valid configuration, on the scheduler's thread; it must not wait. For
        `quiet_for_s` see UpdateDeferrer, for `totals` MetricsPublisher.
        """
        if self._used is not None:
            self._last_good.keep(self._used.configuration)
        self.nucleus.when_connected(self._report_running)
        watcher = ConfigurationWatcher(
            self.nucleus, self._configuration, partial(self._change, use)
        )
        updates = UpdateDeferrer(self.nucleus, lambda: self._updates, quiet_for_s)
        counts = MetricsPublisher(self.nucleus, totals)
        for begin in (watcher.start, updates.start, counts.publish):
            self.nucleus.scheduler.schedule(begin)

    def in_force(self, settings: Settings) -> None:
        """Keep these settings for the next start: all of them are in force.

        Called on any thread, with what `use` got.
        """
        used = self._used
        if used is not None and used.settings is settings:
            self._last_good.keep(used.configuration)

    def close(self, within_s: float) -> None:
        """Disconnect."""
        self.nucleus.close(within_s)

    def _change(self, use: Callable[[Settings], None], configuration: Configuration) -> None:
        try:
            settings = self._settings(configuration)
        except InvalidConfiguration as error:
            self._settings_problem = f"The settings stay as they were: {error}"
            log.error("%s", self._settings_problem)  # noqa: TRY400 - the settings' fault
        else:
            self._settings_problem = ""
            use(settings)

    def _report_running(self) -> None:
        report = self.nucleus.update_state("RUNNING")
        report.add_done_callback(
            lambda report: self.nucleus.scheduler.schedule(partial(_log_failure, report))
        )

    def _lose(self, why: str) -> None:
        with self._lost_lock:
            self._why_lost, act = why, self._on_lost
        act(why)

    def _read(self, within_s: float) -> Configuration:
        """Return the configuration; while the nucleus is away or busy, try again. Raises as it."""
        began = time.monotonic()
        while True:
            try:
                self.nucleus.connect().result()  # which has a limit
                return self.nucleus.get_configuration().result(ANSWER_WITHIN_S)
            except NotFound:
                return {}
            except NotDone:
                raise NucleusBusy(f"The configuration can't be read: {NO_ANSWER}") from None
            except NucleusBusy:
                if time.monotonic() - began > min(within_s, ANSWER_WITHIN_S):
                    raise
            except NucleusLost:
                if self._why_lost or time.monotonic() - began > within_s:
                    raise
            time.sleep(READ_AGAIN_S)

    def _settings(self, configuration: Mapping[str, object]) -> Settings:
        tree = settings_tree(configuration, self._work)
        settings = config.build(tree, self._environment, self._assignments)
        self._updates, self._used = settings.updates, _Used(dict(configuration), settings)
        return settings


def _log_failure(report: Future[None]) -> None:
    error = report.exception()
    if error is not None and not isinstance(error, NucleusLost):
        log.warning("The nucleus didn't accept the state RUNNING: %s", error)
