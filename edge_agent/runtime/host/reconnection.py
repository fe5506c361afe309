"""When to connect to the nucleus again, as whom, and when to give up: decisions without I/O.

A nucleus that is away is waited for without a limit. One that is there and refuses the component
has restarted and wants to start it again. Lite's systemd allows three starts an hour, so that the
component ends only when it has run for a third of one.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import Dict, List, Optional

log = logging.getLogger(__name__)

FIRST_RETRY_S, LONGEST_RETRY_S = 0.25, 5.0
REFUSED_FOR_S = 60.0  # a nucleus that starts may refuse at first
LEAST_RUN_S = 1260.0  # three starts take more than an hour


@dataclass(frozen=True)
class NextTry:
    """What follows a failed attempt."""

    after_s: float = 0.0
    at_once: bool = False  # with another identity
    gives_up: bool = False


class Reconnection:
    """Owns what is known of the connection; times are monotonic, in seconds."""

    def __init__(self, path: str, token: str, component: str) -> None:
        """`component`: its name, "" when it isn't known."""
        self.problem = ""  # why there is no connection, a sentence
        self._path, self._component = path, component
        self._identities: List[Dict[str, str]] = [{"authToken": token}]
        if component:
            self._identities.append({"componentName": component})
        self._tried = 0  # identities in this attempt
        self._failures = 0  # attempts in a row
        self._began = time.monotonic()
        self._away_since: Optional[float] = None
        self._refused_since: Optional[float] = None
        self._logged = ""

    @property
    def identity(self) -> Dict[str, str]:
        """As whom to introduce the component now."""
        return self._identities[self._tried]

    def connected(self, now: float) -> None:
        """Note that the nucleus has accepted it; this identity comes first next time."""
        if self._away_since is not None:
            log.info("The Greengrass nucleus is back after %.0f s.", now - self._away_since)
        self._identities.insert(0, self._identities.pop(self._tried))
        self._tried = self._failures = 0
        self._away_since = self._refused_since = None
        self.problem = self._logged = ""

    def failed(self, reason: str, was_refused: bool, now: float) -> NextTry:
        """Note the end of a connection, or that it couldn't be made."""
        self._away_since = now if self._away_since is None else self._away_since
        if was_refused and self._tried + 1 < len(self._identities):
            self._tried += 1
            return NextTry(at_once=True)
        self._tried = 0
        self._failures += 1
        if not was_refused:
            self._refused_since = None
            self._say("away", self._away(reason))
        else:
            self._refused_since = now if self._refused_since is None else self._refused_since
            self._say("refused", self._refused(reason))
            if now - self._refused_since >= REFUSED_FOR_S and now - self._began >= LEAST_RUN_S:
                return NextTry(gives_up=True)
        return NextTry(min(LONGEST_RETRY_S, FIRST_RETRY_S * 2.0 ** min(self._failures - 1, 8)))

    def _say(self, kind: str, problem: str) -> None:
        """Log it once, not at each attempt."""
        self.problem = problem
        if kind != self._logged:
            log.warning(problem)
        self._logged = kind

    def _away(self, reason: str) -> str:
        return (
            f"The Greengrass nucleus at {self._path} is away ({reason}): it isn't running or "
            "restarts. The agent works on without it, results wait in the outbox, and it connects "
            "again when the nucleus is back."
        )

    def _refused(self, reason: str) -> str:
        also = f" and doesn't accept the name {self._component} instead" if self._component else ""
        return (
            f"The Greengrass nucleus at {self._path} refuses this component ({reason}): it has "
            f"restarted, doesn't know the token in SVCUID any more{also}. The agent works on "
            "without it, and results wait in the outbox. If it is still refused "
            f"{LEAST_RUN_S / 60:.0f} min after its start, it ends, to be started with a new token."
        )
