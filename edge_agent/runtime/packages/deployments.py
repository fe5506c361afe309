"""What is deployed on this device: one registration a model, from a folder of packages and from
records in `models.d`.

A record is one JSON file: {"model_component": NAME, "package": PATH, "autostart": false,
"model_arn": "", "decision": {...}, "signed_as": "", "allow_downgrade": false}. `decision` replaces
single values of the package's own. `signed_as`: the component that the package was signed as, if it
isn't the model's own name. `allow_downgrade`: an older version than one served before may serve.
"""  # noqa: D205

from __future__ import annotations

import json
import logging
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Dict, Iterator, Optional, Tuple

from pydantic import Field
from typing_extensions import Annotated

from edge_agent.config import ModelsSettings
from edge_agent.errors import EdgeAgentError, InvalidPackage
from edge_agent.fields import Strict, read_json
from edge_agent.manifest import FILE_NAME, NAME_PATTERN, Decision, Manifest
from edge_agent.runtime.packages.highest_versions import ServedVersions
from edge_agent.runtime.packages.package import DEFAULT_LIMIT_BYTES, Package, stamp
from edge_agent.runtime.packages.signature import Identity, TrustedKeys

log = logging.getLogger(__name__)


class Record(Strict):
    """The content of a registration record."""

    model_component: Annotated[str, Field(pattern=NAME_PATTERN)]
    package: Annotated[str, Field(pattern=r"^/")]
    autostart: bool = False
    model_arn: str = ""
    decision: Dict[str, object] = Field(default_factory=dict)
    signed_as: Optional[Annotated[str, Field(pattern=NAME_PATTERN)]] = None
    allow_downgrade: bool = False


@dataclass(frozen=True)
class Registration:
    """A deployed model; equal to an earlier one only when nothing about it changed."""

    name: str
    package: Path
    stamp: Tuple[int, ...]
    autostart: bool = False
    arn: str = ""
    decision: str = "{}"  # JSON of the values that replace the manifest's
    digest: str = field(default="", compare=False)  # of the package; empty: it can't be read
    threshold: Optional[float] = None  # set while the model runs, see `thresholds`; wins over all
    decided_by: str = field(default="its registration", compare=False)
    trusted: Optional[TrustedKeys] = field(default=None, compare=False, repr=False)
    versions: Optional[ServedVersions] = field(default=None, compare=False, repr=False)
    signed_as: Optional[str] = None  # None: the model's own name
    allow_downgrade: bool = False

    def open(self, limit_bytes: int = DEFAULT_LIMIT_BYTES) -> Package:
        """Return its package; where keys are trusted, one of them must have signed it.

        Raises InvalidPackage; also when it was signed as another component or, unless that is
        allowed, an older version of it was served before.
        """
        package = Package(self.package, limit_bytes, self.trusted)
        if package.identity is not None:
            self._check_identity(package.path, package.identity)
        return package

    def served(self, package: Package) -> None:
        """Record that its package serves from now on."""
        if package.identity is not None and self.versions is not None:
            self.versions.served(package.identity)

    def is_same_package(self, other: Registration) -> bool:
        """Whether what is loaded for `other` would be loaded for this one as well."""
        return (self.package, self.stamp) == (other.package, other.stamp)

    def _check_identity(self, package: Path, identity: Identity) -> None:
        expected = self.signed_as or self.name
        if identity.component != expected:
            raise InvalidPackage(
                f"{package} was signed as {identity}, not as {expected}. Register it under the "
                f'name {identity.component}, or set "signed_as": "{identity.component}" in the '
                "model's record."
            )
        if self.versions is not None and not self.allow_downgrade:
            self.versions.check(package, identity)

    def apply(self, manifest: Manifest) -> Manifest:
        """Return the manifest with this registration's decision values in it.

        `manifest` is the package's own. Raises InvalidPackage when a value can't be.
        """
        values = {**manifest.decision.model_dump(mode="json"), **json.loads(self.decision)}
        if self.threshold is not None:
            values["threshold"] = self.threshold
        try:
            decision = read_json(Decision, json.dumps(values).encode())
        except ValueError as error:
            raise InvalidPackage(f"Registration of {self.name!r}: decision.{error}") from None
        return manifest.model_copy(update={"decision": decision})


class Store:
    """Reads what is deployed, on each `scan`; unusable entries are logged once and left out."""

    def __init__(self, settings: ModelsSettings, versions: Optional[Path] = None) -> None:
        """Read the trusted keys. Raises InvalidConfiguration when they can't be used.

        `versions`: file of the versions that were served; None: remembered until the process ends.
        """
        self._settings = settings
        keys, allow_unbound = settings.trusted_keys, settings.allow_unbound_signatures
        self._trusted = TrustedKeys.read(keys, allow_unbound) if keys else None
        self._versions = ServedVersions(versions) if keys else None
        self._reported: Dict[Path, Tuple[int, ...]] = {}
        self._known: Dict[Path, Tuple[Tuple[int, ...], str, str]] = {}  # stamp, ARN, digest

    def scan(self) -> Dict[str, Registration]:
        """Return the registrations by name. A record wins over a folder entry of the same name."""
        found = {entry.name: entry for entry in self._from_folder()}
        found.update((entry.name, entry) for entry in self._from_records())
        return found

    def _from_folder(self) -> Iterator[Registration]:
        folder = self._settings.folder
        for path in sorted(folder.iterdir()) if folder and folder.is_dir() else ():
            name = path.stem if path.suffix == ".zip" else path.name
            if not self._is_package(path):
                continue
            if not re.fullmatch(NAME_PATTERN, name):
                self._report(path, f"its name must match {NAME_PATTERN}")
                continue
            package_stamp = stamp(path)
            arn, digest = self._facts(path, package_stamp)
            autostart = self._settings.autostart
            yield Registration(
                name, path, package_stamp, autostart, arn, digest=digest, trusted=self._trusted,
                versions=self._versions,
            )  # fmt: skip

    def _is_package(self, path: Path) -> bool:
        try:
            is_zip = path.suffix == ".zip" and path.is_file()
            return is_zip or (path / FILE_NAME).is_file()
        except OSError as error:
            self._report(path, f"it can't be read ({error.strerror})")
            return False

    def _from_records(self) -> Iterator[Registration]:
        folder = self._settings.records
        for path in sorted(folder.glob("*.json")) if folder and folder.is_dir() else ():
            try:
                if not path.is_file():  # reading a pipe would wait for ever
                    self._report(path, "it isn't a plain file")
                    continue
                record = read_json(Record, path.read_bytes())
            except (OSError, ValueError) as error:
                self._report(path, str(error))
                continue
            package = Path(record.package)
            package_stamp = stamp(package)
            if not package_stamp:
                self._report(path, f"its package {package} doesn't exist")
                continue
            arn, digest = self._facts(package, package_stamp)
            yield Registration(
                record.model_component,
                package,
                package_stamp,
                record.autostart,
                record.model_arn or arn,
                json.dumps(record.decision, sort_keys=True),
                digest,
                trusted=self._trusted,
                versions=self._versions,
                signed_as=record.signed_as,
                allow_downgrade=record.allow_downgrade,
            )

    def _facts(self, path: Path, package_stamp: Tuple[int, ...]) -> Tuple[str, str]:
        """Return the package's ARN and digest, empty when it can't be read."""
        known = self._known.get(path)
        if known is None or known[0] != package_stamp:
            try:
                package = Package(path, trusted=self._trusted)
                facts = package.manifest.model_arn, package.digest
            except EdgeAgentError:
                facts = "", ""  # the start of the model gives the reason
            known = self._known[path] = (package_stamp, *facts)
        return known[1:]

    def _report(self, path: Path, why: str) -> None:
        try:
            facts = path.stat()
        except OSError:
            return  # gone since it was listed
        version = (facts.st_mtime_ns, facts.st_size)
        if self._reported.get(path) != version:
            self._reported[path] = version
            log.warning("%s is ignored: %s", path, why)
