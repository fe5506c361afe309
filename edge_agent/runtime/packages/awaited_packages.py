"""When a package that appeared or changed is taken over: as soon as it is whole.

A copy in progress shows by files that are missing or short, or that change from one look to the
next. What doesn't get whole and doesn't change any more is taken as it is, so that loading it says
what is wrong; the same holds for what is there at the first look.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Dict, Optional, Tuple

from edge_agent.errors import EdgeAgentError
from edge_agent.runtime.packages.package import Package, fingerprint, stamp
from edge_agent.runtime.packages.signature import TrustedKeys
from edge_agent.runtime.system import stalls

STILL_S = 5.0  # a package that isn't whole: no copy goes on when nothing changes for so long
AT_MOST_S = 60.0  # a package that is whole: for so long other files in its folder may change
WHOLE_WITHIN_S = (
    600.0  # a package whose files change; a copy that takes longer is a fault meanwhile
)


class BeingCopied(Exception):
    """The package isn't whole yet, or changes from one look to the next; the text says which."""


@dataclass(frozen=True)
class PackageFacts:
    """One state of a package; `digest` is empty when its manifest can't be used."""

    stamp: Tuple[int, ...]
    arn: str = ""
    digest: str = ""
    is_whole: bool = False


@dataclass
class _Change:
    seen: Tuple[int, ...]
    since: float  # of stalls.ran_s(0), the whole change
    still_since: float


class AwaitedPackages:
    """The state of each package that is in force, from look to look."""

    def __init__(self, limit_bytes: int, trusted: Optional[TrustedKeys]) -> None:
        self._limit_bytes, self._trusted = limit_bytes, trusted
        self._in_force: Dict[Path, PackageFacts] = {}
        self._changes: Dict[Path, _Change] = {}
        self.is_first_look = True  # nothing is waited for

    def look(self, path: Path) -> PackageFacts:
        """Return what is there now.

        Raises OSError, BeingCopied, ValueError when it changes and doesn't get whole.
        """
        known = self._in_force.get(path)
        if known is not None and known.stamp == _stamp(path, known.is_whole):
            self._changes.pop(path, None)
            return known
        change, is_same = self._change(path)
        found, missing = self._read(path)
        if not self.is_first_look and not _is_over(change, is_same, found.is_whole):
            if missing and stalls.ran_s(change.since) >= WHOLE_WITHIN_S:
                why = missing.rstrip(".")
                raise ValueError(f"its files change without end, and it never gets whole: {why}")
            raise BeingCopied(missing or "its files change")
        self._changes.pop(path, None)
        self._in_force[path] = found
        return found

    def forget(self, path: Path) -> None:
        """Wait for whatever comes to be at `path`, also when it is what was there before."""
        self._in_force.pop(path, None)
        self._changes.pop(path, None)

    def _change(self, path: Path) -> Tuple[_Change, bool]:
        """Return what changes, and whether it is as at the last look."""
        now, seen = stalls.ran_s(0.0), fingerprint(path)
        change = self._changes.setdefault(path, _Change((), now, now))
        is_same = change.seen == seen
        if not is_same:
            change.seen, change.still_since = seen, now
        return change, is_same

    def _read(self, path: Path) -> Tuple[PackageFacts, str]:
        """Return what is there, and why it isn't whole."""
        try:
            package = Package(path, self._limit_bytes, self._trusted)
            package.check_sizes()
        except EdgeAgentError as error:
            return PackageFacts(_stamp(path, False)), str(error)
        arn, digest = package.manifest.model_arn, package.digest
        return PackageFacts(_stamp(path, True), arn, digest, is_whole=True), ""


def _stamp(path: Path, is_whole: bool) -> Tuple[int, ...]:
    return stamp(path) if is_whole else fingerprint(path)


def _is_over(change: _Change, is_same: bool, is_whole: bool) -> bool:
    now = stalls.ran_s(0.0)
    if is_whole:
        return is_same or now - change.since >= AT_MOST_S
    return now - change.still_since >= STILL_S
