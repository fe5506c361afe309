"""Thresholds set while a model runs; kept on disk, so that a restart doesn't take them back.

Such a threshold lies over what was deployed: the package and the decision of its registration. It
ends when either changes, because a score means something else then, or somebody decided anew. A
threshold of the settings belongs to that decision.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Dict, Optional, Tuple

from edge_agent.errors import AgentUnavailable
from edge_agent.fields import Strict, read_json
from edge_agent.manifest import Fraction
from edge_agent.runtime.packages.deployments import Registration
from edge_agent.runtime.system import private_files
from edge_agent.runtime.system.files import write_atomically

log = logging.getLogger(__name__)

MOST_BYTES = 4 * 1024 * 1024


class _Threshold(Strict):
    model: str
    threshold: Fraction
    by: str
    digest: str  # of the package it was set for
    decision: str  # of the registration it was set for


class _File(Strict):
    models: Tuple[_Threshold, ...]


class Thresholds:
    """The thresholds by model; with a `path` of None they end with the process.

    Used under its owner's lock.
    """

    def __init__(self, path: Optional[Path]) -> None:
        self._path = path
        self._kept = _read(path) if path else {}

    def over(self, registration: Registration) -> Registration:
        """Return the registration with its threshold, if one was set and still holds."""
        kept = self._kept.get(registration.name)
        if kept is None:
            return registration
        # A package that can't be read has no digest; it may be the same one, half copied.
        digest = registration.digest or kept.digest
        if (digest, registration.decision) == (kept.digest, kept.decision):
            return replace(registration, threshold=kept.threshold, decided_by=kept.by)
        log.warning(
            "The threshold %g of model %s, set by %s, ends: another package or decision is "
            "deployed.",
            kept.threshold,
            registration.name,
            kept.by,
        )
        rest = {name: entry for name, entry in self._kept.items() if name != registration.name}
        try:
            self._write(rest)
        except OSError as error:
            log.error("%s can't be written: %s", self._path, error.strerror)  # noqa: TRY400
        self._kept = rest
        return registration

    def keep(self, registration: Registration, threshold: float, by: str) -> None:
        """Keep `threshold`, 0 to 1, for as long as this registration's deployment stays.

        Raises AgentUnavailable when it can't be written; nothing has changed then.
        """
        entry = _Threshold(
            model=registration.name,
            threshold=threshold,
            by=by,
            digest=registration.digest,
            decision=registration.decision,
        )
        kept = {**self._kept, registration.name: entry}
        try:
            self._write(kept)
        except OSError as error:
            raise AgentUnavailable(
                f"The threshold can't be kept and isn't changed: {self._path}: {error.strerror}."
            ) from None
        self._kept = kept

    def _write(self, kept: Dict[str, _Threshold]) -> None:
        """Replace the file as a whole; a power cut leaves the old or the new one."""
        if self._path is None:
            return
        self._path.parent.mkdir(0o700, parents=True, exist_ok=True)
        content = _File(models=tuple(kept.values())).model_dump_json(indent=2) + "\n"
        write_atomically(self._path, content.encode())


def _read(path: Path) -> Dict[str, _Threshold]:
    try:
        return {
            entry.model: entry
            for entry in read_json(_File, private_files.read(path, MOST_BYTES)).models
        }
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        log.error("%s is left out, thresholds set before are lost: %s", path, error)  # noqa: TRY400
        return {}
