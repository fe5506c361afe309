"""What is deployed on this device: one registration a model, from a folder of packages and from
records in `models.d`.

What can't be read is a fault and no order: the last good registration stays in force, with a note
that says why. What was removed from a folder that can be read goes after `models.remove_after_s`.
"""  # noqa: D205

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Dict, List, Optional, Tuple

from edge_agent.config import MIB, ModelsSettings
from edge_agent.logs import printable
from edge_agent.runtime.packages.awaited_packages import AwaitedPackages, BeingCopied
from edge_agent.runtime.packages.highest_versions import ServedVersions
from edge_agent.runtime.packages.registration import Registration
from edge_agent.runtime.packages.signature import TrustedKeys
from edge_agent.runtime.packages.sources import (
    Listing,
    PackageFolder,
    RecordFolder,
    Source,
    Trust,
    Withdrawn,
    check_folder,
    similar,
)
from edge_agent.runtime.system import stalls

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Finding:
    """Something in the folders that doesn't serve as it stands there; `sentence` says why.

    level: ERROR for a fault, WARNING for what never serves, INFO for what passes by itself.
    model: which it is about; empty: none that is known.
    """

    path: Path
    sentence: str
    level: int
    model: str = ""

    @property
    def is_fault(self) -> bool:
        """Whether somebody has to put it right."""
        return self.level == logging.ERROR


@dataclass
class _Entry:
    """What a path of a source deploys; the last that could be used."""

    registration: Registration
    gone_since: Optional[float] = None  # of stalls.ran_s(0)


class _Deployed:
    """A source, and what it deployed until now."""

    def __init__(self, setting: str, source: Source) -> None:
        self.setting, self.source = setting, source
        self.entries: Dict[Path, _Entry] = {}
        self.left: Dict[Path, float] = {}  # records that serve nothing; since, of stalls.ran_s(0)
        self.identity: Optional[Tuple[int, int]] = None  # of the folder that had entries

    @property
    def name(self) -> str:
        """The folder, for people."""
        return f"{self.setting} {self.source.folder}"


class Store:
    """Reads what is deployed, on each `scan`; `findings` are what the last one left out, and why.

    Each finding is logged once.
    """

    def __init__(self, settings: ModelsSettings, versions: Optional[Path] = None) -> None:
        """Read the trusted keys. Raises InvalidConfiguration when they can't be used.

        `versions`: file of the versions that were served; None: remembered until the process ends.
        """
        keys, allow_unbound = settings.trusted_keys, settings.allow_unbound_signatures
        trust = Trust(
            TrustedKeys.read(keys, allow_unbound) if keys else None,
            ServedVersions(versions) if keys else None,
        )
        self.remove_after_s = settings.remove_after_s
        self.findings: List[Finding] = []
        self.is_waiting = False  # for a package to be whole
        self._logged: Dict[Path, Finding] = {}
        self._renamed: Dict[str, Tuple[Path, _Entry]] = {}  # by the name that a record had before
        self._packages = AwaitedPackages(settings.package_limit_mib * MIB, trust.keys)
        self._deployed: List[_Deployed] = []  # of a name, what comes last serves
        if settings.folder is not None:
            packages = PackageFolder(settings.folder, self._packages, trust, settings.autostart)
            self._deployed.append(_Deployed("models.folder", packages))
        if settings.records is not None:
            records = RecordFolder(settings.records, self._packages, trust)
            self._deployed.append(_Deployed("models.records", records))

    def scan(self) -> Dict[str, Registration]:
        """Return the registrations by name. A record wins over a folder entry of the same name."""
        self.findings, self.is_waiting = [], False
        for deployed in self._deployed:
            self._look_into(deployed)
        self._packages.is_first_look = False
        found = self._by_name()
        self._log_findings()
        return found

    def _look_into(self, deployed: _Deployed) -> None:
        source, entries = deployed.source, deployed.entries
        try:
            listing = _listing(deployed)
        except ValueError as error:
            self._folder_fault(deployed, str(error))
            return
        if not listing.deployed and not entries:
            self._find(source.folder, f"{deployed.name} {source.why_empty()}.", logging.WARNING)
        present = listing.deployed | (listing.others.keys() & entries.keys())
        for path in listing.others.keys() - present:
            sentence = f"{path} is ignored: {listing.others[path]}."
            self._find(path, sentence, logging.WARNING)
        copied = [path for path in sorted(present) if not self._read(deployed, path)]
        for path in entries.keys() - present:
            self._withdraw(deployed, path, is_held=bool(copied))

    def _folder_fault(self, deployed: _Deployed, why: str) -> None:
        """Keep all that the folder deployed; of a folder that never had any, say what is expected.

        The folder of records is made by the first component that writes one.
        """
        names = sorted(entry.registration.name for entry in deployed.entries.values())
        is_fault = bool(names) or deployed.setting == "models.folder"
        source = deployed.source
        kept = f" Its models stay as they are: {', '.join(names)}."
        advice = kept if names else f"{similar(source.folder)} {source.expected}."
        sentence = f"{deployed.name} {why}.{advice}"
        level = logging.ERROR if is_fault else logging.WARNING
        self._find(deployed.source.folder, sentence, level)
        for entry in deployed.entries.values():
            entry.gone_since = None
            self._note(entry, f"{deployed.name} {why}.")

    def _read(self, deployed: _Deployed, path: Path) -> bool:
        """Take over what stands at `path`; return whether no copy is in progress there."""
        entry = deployed.entries.get(path)
        try:
            registration = deployed.source.read(path)
        except Withdrawn:
            self._withdraw(deployed, path, is_held=False)
        except BeingCopied as copied:
            self.is_waiting = True
            self._wait(path, entry, str(copied))
            return False
        except OSError as error:
            if os.path.lexists(path):  # else it went during this look
                self._fault(path, entry, f"it {_unreadable(error)}")
        except ValueError as error:
            self._fault(path, entry, str(error))
        else:
            deployed.entries[path] = _Entry(registration)
            deployed.left.pop(path, None)
            if entry is not None and entry.registration.name != registration.name:
                entry.gone_since = stalls.ran_s(0.0)
                self._renamed[entry.registration.name] = path, entry
        return True

    def _wait(self, path: Path, entry: Optional[_Entry], why: str) -> None:
        sentence = f"{path} is being copied, and is used as soon as it is whole."
        self._find(path, sentence, logging.INFO, entry.registration.name if entry else "")
        log.debug("%s isn't whole yet: %s", path, why)
        if entry is not None:
            entry.gone_since = None
            self._note(entry, sentence)

    def _fault(self, path: Path, entry: Optional[_Entry], why: str) -> None:
        if entry is None:
            self._find(path, f"{path} is ignored: {why}.", logging.ERROR)
            return
        name = entry.registration.name
        sentence = f"{path} can't be used: {why}. Model {name} stays as it was deployed before."
        self._find(path, sentence, logging.ERROR, name)
        entry.gone_since = None
        self._note(entry, sentence)

    def _withdraw(self, deployed: _Deployed, path: Path, is_held: bool) -> None:
        """Let go what was removed, in time; `is_held`: not while something beside is copied."""
        entry, now = deployed.entries.get(path), stalls.ran_s(0.0)
        if entry is None:
            self._leave(deployed, path)
            return
        if entry.gone_since is None or is_held:
            entry.gone_since = now
        elif now - entry.gone_since >= self.remove_after_s:
            del deployed.entries[path]
            self._forget(deployed.source, path)
            return
        self._note(entry, "")
        self._find_leaving(path, f"{path} was withdrawn", entry.registration.name)

    def _leave(self, deployed: _Deployed, path: Path) -> None:
        """Remove a record that serves nothing, in time: its package's disk may come later."""
        now, since = stalls.ran_s(0.0), deployed.left.get(path)
        if since is not None and now - since >= self.remove_after_s:
            self._forget(deployed.source, path)
            return
        deployed.left.setdefault(path, now)
        sentence = f"{path} serves nothing: its component has stopped. It goes after {self._after}."
        self._find(path, sentence, logging.INFO)

    @property
    def _after(self) -> str:
        return f"{self.remove_after_s:g} s (models.remove_after_s)"

    def _find_leaving(self, path: Path, what: str, name: str) -> None:
        sentence = f"{what}. Model {name} goes after {self._after}, unless it comes back."
        self._find(path, sentence, logging.INFO, name)

    def _forget(self, source: Source, path: Path) -> None:
        try:
            source.forget(path)
        except OSError as error:
            sentence = f"{path} can't be removed ({error.strerror}). Remove it by hand."
            self._find(path, sentence, logging.ERROR)

    def _by_name(self) -> Dict[str, Registration]:
        """Return what serves under each name, and find what has the same name."""
        found = self._former()
        places: Dict[str, List[Path]] = {}
        for deployed in self._deployed:
            for path, entry in sorted(deployed.entries.items()):
                found[entry.registration.name] = entry.registration
                if entry.gone_since is None:
                    places.setdefault(entry.registration.name, []).append(path)
        for name, (*others, serving) in places.items():
            for other in others:
                self._find(
                    other,
                    f"{other} doesn't serve: model {name} is served from {serving}, which has the "
                    "same name. A record comes before a folder's package, a .zip before a folder, "
                    "and of two records the last by file name. Remove or rename one of them.",
                    logging.WARNING,
                    name,
                )
        return found

    def _former(self) -> Dict[str, Registration]:
        """Return what served under a name that its record has lost; each goes in time."""
        now = stalls.ran_s(0.0)
        for name, (path, entry) in list(self._renamed.items()):
            if now - (entry.gone_since or now) >= self.remove_after_s:
                del self._renamed[name]
            else:
                self._find_leaving(path, f"{path} has another model_component", name)
        return {name: entry.registration for name, (_, entry) in self._renamed.items()}

    def _note(self, entry: _Entry, note: str) -> None:
        if entry.registration.note != (note := printable(note)):
            entry.registration = replace(entry.registration, note=note)

    def _find(self, path: Path, sentence: str, level: int, model: str = "") -> None:
        self.findings.append(Finding(path, printable(sentence), level, model))

    def _log_findings(self) -> None:
        """Log what is new, and which fault has ended; a fault once, also when its reason changes.

        A file that is being written may be wrong in another way at each look.
        """
        found = {finding.path: finding for finding in self.findings}
        for path, finding in found.items():
            before = self._logged.get(path)
            if before != finding and not (before and before.is_fault and finding.is_fault):
                log.log(finding.level, "%s", finding.sentence)
        for path, before in self._logged.items():
            if before.is_fault and path not in found:
                log.info("%s is in order again.", path)
        self._logged = found


def _listing(deployed: _Deployed) -> Listing:
    """Return what is in the folder. Raises ValueError: why that can't be known.

    Where a disk or share was mounted, an empty folder is left when it goes.
    """
    source = deployed.source
    try:
        check_folder(source.folder)
        identity, listing = source.identity(), source.listing()
    except OSError as error:
        raise ValueError(_unreadable(error)) from None
    is_another = deployed.identity not in (None, identity)
    if is_another and deployed.entries and not listing.deployed:
        raise ValueError(f"is another folder than before, and {source.why_empty()}")
    if listing.deployed:
        deployed.identity = identity
    return listing


def _unreadable(error: OSError) -> str:
    return f"can't be read ({error.strerror or error})"
