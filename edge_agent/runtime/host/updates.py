"""Defers updates of components while frames are inspected, but not for ever; only on classic."""

from __future__ import annotations

import logging
import math
from concurrent.futures import Future
from functools import partial
from typing import Callable, Optional

from edge_agent.config import UpdatesSettings
from edge_agent.runtime.host.greengrass import Greengrass
from edge_agent.runtime.host.nucleus import NucleusBusy, NucleusLost
from edge_agent.runtime.host.subscription import Subscription
from edge_agent.runtime.system import stalls

log = logging.getLogger(__name__)

LEAST_RECHECK_S = 1.0  # classic checks no more often
WHY = "Frames are being inspected."


class Deferral:
    """Decides on the deployments, one at a time as the nucleus has them; times are monotonic, s."""

    def __init__(self) -> None:
        self._deployment, self._since = "", math.inf

    def recheck_after_s(
        self, deployment: str, settings: UpdatesSettings, quiet_for_s: float, now: float
    ) -> float:
        """Return when the nucleus is to ask again; 0: the update may go ahead.

        A deployment waits for `settings.defer_at_most_s` in all, from the first question about it
        until it is `over`: another component may have the nucleus ask again.
        """
        if deployment != self._deployment:
            self._deployment, self._since = deployment, now
        left_s = self._since + settings.defer_at_most_s - now
        if quiet_for_s >= settings.quiet_s or left_s <= 0.0:
            return 0.0
        return min(left_s, max(settings.quiet_s, LEAST_RECHECK_S))

    def over(self) -> None:
        """Forget the deployment: it was completed or cancelled."""
        self._deployment = ""


class UpdateDeferrer:
    """Answers the nucleus when a deployment wants to change components."""

    def __init__(
        self,
        nucleus: Greengrass,
        settings: Callable[[], UpdatesSettings],
        quiet_for_s: Callable[[], float],
    ) -> None:
        """`quiet_for_s` returns for how long no frame has been inspected."""
        self._nucleus, self._scheduler = nucleus, nucleus.scheduler
        self._settings, self._quiet_for_s = settings, quiet_for_s
        self._deferral = Deferral()
        self._logged = ""

    def start(self) -> None:
        """Subscribe; a nucleus that doesn't offer or permit it is logged once."""
        Subscription(
            self._nucleus,
            lambda on_end: self._nucleus.subscribe_to_updates(
                lambda deployment: self._scheduler.schedule(partial(self._answer, deployment)),
                lambda _deployment: self._scheduler.schedule(self._deferral.over),
                on_end,
            ),
            self._subscribed,
        ).start()

    def _subscribed(self, error: Optional[BaseException]) -> bool:
        self._deferral.over()  # a nucleus that has restarted begins its deployments again
        if isinstance(error, NucleusBusy):
            self._log_once(
                "Component updates don't wait for the agent: this nucleus has no "
                "SubscribeToComponentUpdates, as nucleus lite. Nothing is wrong."
            )
        elif error is not None:
            self._log_once(f"Component updates don't wait for the agent: {error}")
        return error is None

    def _answer(self, deployment: str) -> None:
        if not deployment:
            log.info("A deployment without an ID can't wait for the agent.")
            return
        after_s = self._deferral.recheck_after_s(
            deployment, self._settings(), self._quiet_for_s(), stalls.ran_s(0.0)
        )
        self._log_once(
            f"Deployment {deployment} " + (f"waits: {WHY}" if after_s else "may go ahead.")
        )
        answer = self._nucleus.defer_update(deployment, math.ceil(1000.0 * after_s), WHY)
        answer.add_done_callback(
            lambda done: self._scheduler.schedule(partial(self._answered, done))
        )

    def _log_once(self, sentence: str) -> None:
        """Log it once, though the nucleus asks again and again."""
        if sentence != self._logged:
            log.info(sentence)
        self._logged = sentence

    def _answered(self, answer: Future[None]) -> None:
        error = answer.exception()
        if error is not None and not isinstance(error, NucleusLost):
            log.info("The answer to the nucleus came too late: %s", error)
