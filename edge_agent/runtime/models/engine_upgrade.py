"""From what serves now to the engine the model would rather be served by, and back from it."""

from __future__ import annotations

import logging
import threading
import time
from functools import partial
from itertools import chain, repeat
from typing import Callable, Dict, Optional

from edge_agent.errors import NotBuilt
from edge_agent.runtime.engines.build import BuildProgress
from edge_agent.runtime.engines.plan import TENSORRT
from edge_agent.runtime.engines.supply import Candidate, EngineOrder, EngineSupply
from edge_agent.runtime.models.loaded_model import Loaded
from edge_agent.runtime.models.serving import Serving
from edge_agent.runtime.models.unit_supervisor import in_background, log_failure, sentence
from edge_agent.runtime.packages.deployments import Registration
from edge_agent.types import BuildState

log = logging.getLogger(__name__)

LOG_EVERY_S = 30.0

PAUSES_S = (15.0, 30.0, 60.0, 120.0, 300.0)  # between attempts to serve again

Only = Callable[[str], bool]  # which engines, by name
IsWanted = Callable[[], bool]
Open = Callable[[Registration, Only], Loaded]
Replace = Callable[[Loaded, Loaded], None]  # the old one by the new one


class Upgrade:
    """Has engines built for one model and changes it over to them; leaves those beyond help."""

    def __init__(
        self, serving: Serving, supply: EngineSupply, open_: Open, replace: Replace
    ) -> None:
        self._serving, self._supply = serving, supply
        self._open, self._replace = open_, replace
        self._lock = threading.Lock()
        self._orders: Dict[EngineOrder, IsWanted] = {}
        self._abandoned: Optional[Loaded] = None
        self._changed = threading.Event()  # something else may serve now; for who pauses

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

    def build(self, candidate: Candidate, serving: Optional[Loaded], is_wanted: IsWanted) -> None:
        """Build in this thread while `serving` serves; raises as `EngineSupply.build`.

        Whoever makes `is_wanted` false calls `prune` afterwards.
        """
        order = EngineOrder(candidate)
        with self._lock:
            self._orders[order] = is_wanted
        try:
            self.prune()
            self._supply.build(order, self._teller(candidate, serving))
        finally:
            with self._lock:
                del self._orders[order]

    def prune(self) -> None:
        """End the builds that nobody wants any more."""
        self._changed.set()
        with self._lock:
            unwanted = [order for order, is_wanted in self._orders.items() if not is_wanted()]
        for order in unwanted:
            order.cancel()

    def _teller(
        self, candidate: Candidate, serving: Optional[Loaded]
    ) -> Callable[[BuildProgress], None]:
        """Return what tells of a build, to clients at once, in the log now and then."""
        summary = f"{serving.summary} " if serving else ""
        logged = 0.0

        def on_progress(progress: BuildProgress) -> None:
            nonlocal logged
            text = f"The {candidate} is being built: {progress}."
            state = BuildState(progress.fraction or 0.0, progress.remaining_s)
            self._serving.tell(serving, summary + text, state)
            if time.monotonic() - logged >= LOG_EVERY_S:
                logged = time.monotonic()
                log.info("Model %s: %s", self._serving.name, text)

        self._serving.tell(
            serving, f"{summary}The {candidate} is going to be built.", BuildState(0.0)
        )
        return on_progress

    def _upgrade(self, old: Loaded, candidate: Candidate) -> None:
        """Build what `old` waits for; change over to the first engine that serves."""
        try:
            new = self._build_and_open(old, candidate)
        except Exception as error:
            if self._serving.loaded is old:
                log_failure("Model %s stays as it is: %s", self._serving.name, error)
                old.remarks.append(f"Not on {TENSORRT}: {sentence(error)}")
                self._serving.tell(old, old.summary)
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
        """Change over to another engine, else, after pauses, to the same one made anew."""
        left, why = old.opened.backend.name, old.trouble
        pauses = chain(PAUSES_S, repeat(PAUSES_S[-1]))
        new = self._try(old, lambda name: name not in (TENSORRT, left))
        while new is None and self._pause(old, next(pauses)):
            new = self._try(old, lambda name: True)
        if new is not None:
            if new.opened.backend.name != left:
                new.remarks.append(f"Not on {left}: {why}")
            self._replace(old, new)

    def _try(self, old: Loaded, only: Only) -> Optional[Loaded]:
        try:
            return self._open(old.registration, only)
        except Exception as error:
            log_failure("Model %s has no engine that works: %s", self._serving.name, error)
            why = f"{old.trouble} {sentence(error)} Trying again."
            self._serving.tell(old, f"{old.summary} {why}")
            return None

    def _pause(self, old: Loaded, seconds: float) -> bool:
        """Wait; return whether `old` still serves. Ends early when it doesn't."""
        self._changed.clear()
        while self._serving.loaded is old and self._changed.wait(seconds):
            self._changed.clear()
        return self._serving.loaded is old
