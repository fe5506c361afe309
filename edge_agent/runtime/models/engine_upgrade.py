"""From what serves now to an engine that serves better, and away from an engine that failed.

Decisions without threads: what is to be loaded, and when.
"""

from __future__ import annotations

import logging
import time
from itertools import chain, repeat
from typing import Iterator, Optional

from edge_agent.runtime.engines.plan import TENSORRT
from edge_agent.runtime.models.load_attempt import Goal, Purpose
from edge_agent.runtime.models.loaded_model import LoadedModel
from edge_agent.runtime.models.state import log_failure, reason

log = logging.getLogger(__name__)

PAUSES_S = (15.0, 30.0, 60.0, 120.0, 300.0)  # between attempts to serve again


class EngineUpgrade:
    """Which other engine should serve a loaded model; `note` says for people what failed."""

    def __init__(self, name: str, loaded: LoadedModel) -> None:
        self.note = ""
        self._name, self._loaded = name, loaded
        self._pauses = chain(PAUSES_S, repeat(PAUSES_S[-1]))
        self._has_failed = False
        self._has_tried_others = False
        self._retry_at = 0.0

    def goals(self) -> Iterator[Goal]:
        """Yield what is to be loaded now, if anything."""
        loaded = self._loaded
        if loaded.to_build is not None:
            yield Goal(
                Purpose.UPGRADE, loaded.registration, loaded, TENSORRT.__eq__, loaded.to_build
            )
        if loaded.failure and not self._has_failed:
            self._has_failed = True
            log.error("Model %s: its engine can't be used any more: %s", self._name, loaded.failure)
        if self._has_failed and not self.retry_in_s():
            yield Goal(Purpose.FALL_BACK, loaded.registration, loaded, self._accepts)

    def retry_in_s(self) -> Optional[float]:
        """Return the seconds until the next attempt; 0: it is due, None: none will be needed."""
        return max(0.0, self._retry_at - time.monotonic()) if self._has_failed else None

    def attempt_failed(self, purpose: Purpose, error: BaseException) -> None:
        """Give the better engine up; try again for one that serves at all."""
        loaded = self._loaded
        if purpose is Purpose.UPGRADE:
            log_failure("Model %s continues without a better engine: %s", self._name, error)
            loaded.remarks.append(f"Not on {TENSORRT}: {reason(error)}")
            loaded.to_build = None
            return
        log_failure("Model %s has no engine that works: %s", self._name, error)
        self.note = f"{loaded.failure} {reason(error)} Trying again."
        self._has_tried_others = True
        self._retry_at = time.monotonic() + next(self._pauses)

    def remark_on(self, new: LoadedModel) -> None:
        """Note on what serves instead why the engine before it doesn't."""
        left = self._loaded.selected.backend.name
        if self._has_failed and new.selected.backend.name != left:
            new.remarks.append(f"Not on {left}: {self._loaded.failure}")

    def _accepts(self, name: str) -> bool:
        """First any engine but those on the failed worker; after that also the same one again."""
        return self._has_tried_others or name not in (TENSORRT, self._loaded.selected.backend.name)
