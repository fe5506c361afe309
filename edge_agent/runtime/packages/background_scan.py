"""Looks at the disk in a thread of its own: a share that doesn't answer holds up nothing else."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotDone
from typing import Callable, Dict, Optional

from edge_agent.runtime.packages.registration import Registration

log = logging.getLogger(__name__)

Scan = Callable[[], Dict[str, Registration]]


class BackgroundScan:
    """One scan at a time; `is_late` while one has no end."""

    def __init__(self, scan: Scan) -> None:
        self._scan = scan
        self._pending: Optional[Future[Dict[str, Registration]]] = None
        self.is_late = False

    def look(self, within_s: float) -> Optional[Dict[str, Registration]]:
        """Return what is deployed; None when the disk hasn't answered. Raises as the scan does."""
        pending = self._pending or self._begin()
        try:
            found = pending.result(0.0 if self.is_late else within_s)
        except NotDone:
            if not self.is_late:
                self.is_late = True
                log.error(  # noqa: TRY400 - the disk's fault, no traceback needed
                    "The folders of models haven't answered for %g s. All models stay as they are.",
                    within_s,
                )
            return None
        finally:
            if pending.done():
                self._pending = None
        if self.is_late:
            log.info("The folders of models answer again.")
        self.is_late = False
        return found

    def _begin(self) -> Future[Dict[str, Registration]]:
        pending = self._pending = Future()
        threading.Thread(target=self._run, args=(pending,), name="scan", daemon=True).start()
        return pending

    def _run(self, pending: Future[Dict[str, Registration]]) -> None:
        try:
            pending.set_result(self._scan())
        except Exception as error:
            pending.set_exception(error)
