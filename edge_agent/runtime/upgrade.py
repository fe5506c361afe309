"""From what serves now to the engine the model would rather be served by, and back from it."""

from __future__ import annotations

import logging
import threading
import time
from functools import partial
from typing import Callable, Optional

from edge_agent.errors import NotBuilt
from edge_agent.runtime.engines.build import Progress
from edge_agent.runtime.engines.plan import TENSORRT
from edge_agent.runtime.engines.supply import Candidate, EngineOrder, EngineSupply
from edge_agent.runtime.loaded import Loaded
from edge_agent.runtime.serving import Serving
from edge_agent.runtime.store import Registration
from edge_agent.runtime.unit_care import in_background, sentence

log = logging.getLogger(__name__)

LOG_EVERY_S = 30.0

Open = Callable[[Registration, Callable[[str], bool]], Loaded]  # in some of the engines only
Replace = Callable[[Loaded, Loaded], None]  # the old one by the new one


class Upgrade:
    """Has engines built for one model and changes it over to them; leaves those beyond help.

    At most one engine is being built at a time, which `cancel` ends.
    """

    def __init__(
        self, serving: Serving, supply: EngineSupply, open_: Open, replace: Replace
    ) -> None:
        self._serving, self._supply = serving, supply
        self._open, self._replace = open_, replace
        self._lock = threading.Lock()
        self._order: Optional[EngineOrder] = None
        self._abandoned: Optional[Loaded] = None

    def begin(self, loaded: Loaded) -> None:
        """Have the engine built that `loaded` waits for, if any, in the background."""
        if loaded.pending is not None:
            in_background(partial(self._upgrade, loaded, loaded.pending))

    def abandon(self, loaded: Loaded) -> None:
        """When the engine of `loaded` is beyond help, open another one in the background."""
        if loaded.trouble and self._abandoned is not loaded:
            self._abandoned = loaded
            log.error("Model %s leaves its engine: %s", self._serving.name, loaded.trouble)
            in_background(partial(self._fall_back, loaded))

    def build(
        self, candidate: Candidate, serving: Optional[Loaded], is_wanted: Callable[[], bool]
    ) -> None:
        """Build in this thread while `serving` serves; raises as `EngineSupply.build`.

        Whoever makes `is_wanted` false calls `cancel` afterwards.
        """
        order = EngineOrder(candidate)
        with self._lock:
            self._order = order
        if not is_wanted():
            order.cancel()
        summary = f"{serving.summary} " if serving else ""
        logged = 0.0

        def on_progress(progress: Progress) -> None:
            nonlocal logged
            text = f"The {candidate} is being built: {progress}."
            self._serving.tell(serving, summary + text, progress.fraction or 0.0)
            if time.monotonic() - logged >= LOG_EVERY_S:
                logged = time.monotonic()
                log.info("Model %s: %s", self._serving.name, text)

        self._serving.tell(serving, f"{summary}The {candidate} is going to be built.", 0.0)
        self._supply.build(order, on_progress)

    def cancel(self) -> None:
        """End what is being built now."""
        with self._lock:
            order = self._order
        if order is not None:
            order.cancel()

    def _upgrade(self, old: Loaded, candidate: Candidate) -> None:
        """Build what `old` waits for; change over to the first engine that serves."""
        try:
            new = self._build_and_open(old, candidate)
        except Exception as error:
            if self._serving.loaded is old:
                log.warning("Model %s stays as it is: %s", self._serving.name, sentence(error))
            self._serving.tell(old, f"{old.summary} Not on {TENSORRT}: {sentence(error)}")
        else:
            self._replace(old, new)

    def _build_and_open(self, old: Loaded, candidate: Candidate) -> Loaded:
        while True:
            self.build(candidate, old, lambda: self._serving.loaded is old)
            try:
                return self._open(old.registration, lambda name: name == TENSORRT)
            except NotBuilt as error:
                candidate = error.wanted

    def _fall_back(self, old: Loaded) -> None:
        why, left = old.trouble, old.opened.backend.name
        try:
            new = self._open(old.registration, lambda name: name not in (TENSORRT, left))
        except Exception as error:
            log.error("Model %s has no other engine: %s", self._serving.name, error)  # noqa: TRY400
            self._serving.tell(old, f"{old.summary} {why} No other engine: {sentence(error)}")
        else:
            new.remarks.append(f"Not on {left}: {why}")
            self._replace(old, new)
