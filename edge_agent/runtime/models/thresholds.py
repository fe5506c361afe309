"""Which threshold applies: the package's, the registration's, the settings' or one set at run time.

Each overrides those before it. A threshold set at run time is stored on disk, so that a restart
doesn't take it back. It overrides what was deployed: the package and the decision of its
registration, of which a threshold of the settings is a part. It ends when either changes, because a
score means something else then, or somebody decided otherwise.
"""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Dict, Optional, Tuple

from edge_agent.config import ModelsSettings
from edge_agent.errors import AgentUnavailable
from edge_agent.fields import Strict, read_json
from edge_agent.manifest import Fraction
from edge_agent.runtime.packages.registration import Registration
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


def with_settings(registration: Registration, models: ModelsSettings) -> Registration:
    """Return the registration with the settings' threshold, and what they allow."""
    if models.allow_downgrade and not registration.allow_downgrade:
        registration = replace(registration, allow_downgrade=True)
    threshold = models.thresholds.get(registration.name)
    decision = json.loads(registration.decision)
    if threshold in (None, decision.get("threshold")):
        return registration
    text = json.dumps({**decision, "threshold": threshold}, sort_keys=True)
    return replace(registration, decision=text, threshold=None, decided_by="the configuration")


class ThresholdOverrides:
    """The thresholds set at run time, by model; with a `path` of None they end with the process.

    Used under its owner's lock.
    """

    def __init__(self, path: Optional[Path]) -> None:
        self._path = path
        self._stored = _read(path) if path else {}

    def apply(self, registration: Registration) -> Registration:
        """Return the registration with its threshold, if one was set and still holds."""
        stored = self._stored.get(registration.name)
        if stored is None:
            return registration
        # A package that can't be read has no digest; it may be the same one, half copied.
        digest = registration.digest or stored.digest
        if (digest, registration.decision) == (stored.digest, stored.decision):
            return replace(registration, threshold=stored.threshold, decided_by=stored.by)
        log.warning(
            "The threshold %g of model %s, set by %s, ends: another package or decision is "
            "deployed.",
            stored.threshold,
            registration.name,
            stored.by,
        )
        rest = {name: entry for name, entry in self._stored.items() if name != registration.name}
        try:
            self._write(rest)
        except OSError as error:
            log.error("%s can't be written: %s", self._path, error.strerror)  # noqa: TRY400
        self._stored = rest
        return registration

    def store(self, registration: Registration, threshold: float, by: str) -> None:
        """Store `threshold`, 0 to 1, for as long as this registration's deployment stays.

        Raises AgentUnavailable when it can't be written; nothing has changed then.
        """
        entry = _Threshold(
            model=registration.name,
            threshold=threshold,
            by=by,
            digest=registration.digest,
            decision=registration.decision,
        )
        stored = {**self._stored, registration.name: entry}
        try:
            self._write(stored)
        except OSError as error:
            raise AgentUnavailable(
                f"The threshold can't be stored and isn't changed: {self._path}: {error.strerror}."
            ) from None
        self._stored = stored

    def _write(self, stored: Dict[str, _Threshold]) -> None:
        """Replace the file as a whole; a power cut leaves the old or the new one."""
        if self._path is None:
            return
        self._path.parent.mkdir(0o700, parents=True, exist_ok=True)
        content = _File(models=tuple(stored.values())).model_dump_json(indent=2) + "\n"
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
        log.error("%s can't be used. Thresholds set before are lost: %s", path, error)  # noqa: TRY400
        return {}
