"""`status.json` in the results' folder: what `edge-agent doctor` reads about a running agent.

{"time": ..., "outbox": {"trouble": "..."}, "sinks": {"mqtt": {"trouble": "...", "since": ...,
"waiting": 12}}, "agent": {"nucleus": {"trouble": "...", "since": ...}}}; times are ISO 8601, an
empty trouble is none, `since` is when it began or ended.
"""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from typing import Dict, Mapping, Optional, Tuple

from edge_agent.runtime.results import event
from edge_agent.runtime.system.files import write_atomically

log = logging.getLogger(__name__)

FILE_NAME = "status.json"
COUNTS_EVERY_S = 60.0  # how old a count may be; a problem is written at once


class StatusFile:
    """Writes the file when something has changed."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE_NAME
        self._since: Dict[str, Tuple[str, str]] = {}  # name → problem, when it began
        self._written: Dict[str, object] = {}
        self._written_at = -COUNTS_EVERY_S

    def update(
        self,
        outbox_problem: str,
        sinks: Mapping[str, Tuple[str, int]],
        agent: Optional[Mapping[str, str]] = None,
    ) -> None:
        """Write the disk's problem, each sink's with how many events wait for it, other parts'."""
        agent = agent or {}
        now, changed = event.iso(time.time()), False
        parts = {"": outbox_problem, **{name: problem for name, (problem, _) in sinks.items()}}
        parts.update({f"agent {name}": problem for name, problem in agent.items()})
        for name, problem in parts.items():
            if name not in self._since or self._since[name][0] != problem:
                self._since[name], changed = (problem, now), True
        facts = {
            "outbox": {"trouble": outbox_problem, "since": self._since[""][1]},
            "sinks": {
                name: {"trouble": problem, "since": self._since[name][1], "waiting": waiting}
                for name, (problem, waiting) in sinks.items()
            },
            "agent": {
                name: {"trouble": problem, "since": self._since[f"agent {name}"][1]}
                for name, problem in agent.items()
            },
        }
        due = time.monotonic() - self._written_at >= COUNTS_EVERY_S
        if changed or (due and facts != self._written):
            self._written, self._written_at = facts, time.monotonic()
            self._write({"time": now, **facts})

    def _write(self, content: Dict[str, object]) -> None:
        try:
            write_atomically(self._path, json.dumps(content).encode() + b"\n", sync=False)
        except OSError:
            log.debug("The status file can't be written.", exc_info=True)  # problems are in the log
