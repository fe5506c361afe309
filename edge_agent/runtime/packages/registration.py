"""One deployed model: which package serves under which name, and how it is to decide."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Optional, Tuple

from edge_agent.errors import InvalidPackage
from edge_agent.fields import read_json
from edge_agent.manifest import Decision, Manifest
from edge_agent.runtime.packages.highest_versions import ServedVersions
from edge_agent.runtime.packages.package import DEFAULT_LIMIT_BYTES, Package
from edge_agent.runtime.packages.signature import Identity, TrustedKeys


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
    # For people: why what stands on disk now isn't served, and this one still is.
    note: str = field(default="", compare=False)

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
